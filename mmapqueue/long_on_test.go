//go:build long

package mmapqueue_test

const long = true
