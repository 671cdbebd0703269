package mmapqueue

import "io"

// FaultyFiles makes a log's segments fail on demand.
type FaultyFiles struct {
	CreateErr error // returned instead of creating a file
	WriteErr  error // returned by a write that would pass Room, after writing as much as fits
	Room      int64 // bytes that may still be written
	SyncErr   error
	Writes    int // calls of WriteAt
}

// Use returns o with its files made by f.
func (f *FaultyFiles) Use(o Options) Options {
	o.create = func(path string, size int64) (file, error) {
		if f.CreateErr != nil {
			return nil, f.CreateErr
		}
		inner, err := createFile(path, size)
		if err != nil {
			return nil, err
		}
		return &faultyFile{inner, f}, nil
	}
	return o
}

type faultyFile struct {
	file
	faults *FaultyFiles
}

func (f *faultyFile) WriteAt(b []byte, offset int64) (int, error) {
	f.faults.Writes++
	if f.faults.WriteErr == nil {
		return f.file.WriteAt(b, offset)
	}
	fits := min(int64(len(b)), f.faults.Room)
	f.faults.Room -= fits
	n, err := f.file.WriteAt(b[:fits], offset)
	if err == nil && n < len(b) {
		err = f.faults.WriteErr
	}
	if err == nil && n < int(fits) {
		err = io.ErrShortWrite
	}
	return n, err
}

func (f *faultyFile) Datasync() error {
	if f.faults.SyncErr != nil {
		return f.faults.SyncErr
	}
	return f.file.Datasync()
}

// Held returns how many descriptors and mappings b holds.
func (b *Backlog) Held() (files, mappings int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.segments {
		if s.mapping != nil {
			mappings++
		}
	}
	files = len(b.unsynced)
	if b.open != nil {
		files++
	}
	return files, mappings
}

// Dir returns the directory of b.
func (b *Backlog) Dir() string { return b.dir }
