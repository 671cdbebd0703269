//go:build unix

package main

import "os"

// syncDir makes the entries of a directory durable. A directory that we may
// write but not read cannot be opened and is trusted to the system.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		if os.IsPermission(err) {
			return nil
		}
		return err
	}
	defer d.Close()
	return d.Sync()
}
