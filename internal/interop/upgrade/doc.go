// Package upgrade tests the way from upstream's nsqd to zsq and back, with the real
// upstream on a real data path. There is nothing to import here.
package upgrade
