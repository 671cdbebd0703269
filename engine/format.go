package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/zsqio/zsq/mmapqueue"
)

// dataFormat is how we write the files below zsq in a data path. A later zsq that
// writes them so that this one would take them for damaged counts it up. With 1 the
// journal's records were bound to their offsets; see mmapqueue.
const dataFormat = 2

// checkFormat refuses a data path that a later zsq has written. A path without a
// number gets ours; what cannot be read or written is only logged.
func checkFormat(dataPath string, log *logger) error {
	path := filepath.Join(dataPath, "zsq", "format")
	b, err := os.ReadFile(path)
	if err == nil {
		var format int
		if format, err = strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			switch {
			case format > dataFormat:
				return fmt.Errorf("data-path %s has format %d, written by a later zsq; this one knows %d", dataPath, format, dataFormat)
			case format == dataFormat:
				return nil
			}
			err = fs.ErrNotExist // an earlier one gets ours: mmapqueue reads it, or says what it does not
		}
	}
	unread := err
	err = os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = mmapqueue.ReplaceFile(mmapqueue.OS, path, fmt.Appendln(nil, dataFormat))
	}
	if unwritable(err) {
		return nil // of which the start says more
	}
	if !errors.Is(unread, fs.ErrNotExist) {
		log.printf(LogError, "format of the data-path, taken for %d - %s", dataFormat, unread)
	}
	if err != nil {
		log.printf(LogError, "format of the data-path - %s", err)
	}
	return nil
}

// unwritable reports whether err says that nothing may be written there, which
// does not go by like a full disk.
func unwritable(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS)
}
