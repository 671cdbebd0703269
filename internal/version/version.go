// Package version holds the release of zsq, for all its programs. The release of
// NSQ that a daemon stands for is its own affair.
package version

// Own is zsq's release.
const Own = "0.1.0"
