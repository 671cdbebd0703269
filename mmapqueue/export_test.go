package mmapqueue

import (
	"sync"
	"sync/atomic"
)

// Faults are what a disk does wrong. The zero value is a disk that works.
type Faults struct {
	CreateErr error // returned instead of creating a file
	WriteErr  error // returned by a write that would pass Room, after writing as much as fits
	Room      int64 // bytes that may still be written
	SyncErr   error
}

// FaultyFiles makes a log's segments fail on demand.
type FaultyFiles struct {
	Writes atomic.Int64 // calls of WriteAt

	mu     sync.Mutex // background syncs look at faults too
	faults Faults
}

// Set replaces the faults.
func (f *FaultyFiles) Set(faults Faults) {
	f.mu.Lock()
	f.faults = faults
	f.mu.Unlock()
}

// Use returns o with its files made by f.
func (f *FaultyFiles) Use(o Options) Options {
	o.create = func(path string, size int64) (file, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.faults.CreateErr != nil {
			return nil, f.faults.CreateErr
		}
		inner, err := createFile(path, size)
		if err != nil {
			return nil, err
		}
		return &faultyFile{inner, f}, nil
	}
	return o
}

// UseJournal does for a journal what Use does for a backlog.
func (f *FaultyFiles) UseJournal(o JournalOptions) JournalOptions {
	o.create = f.Use(Options{}).create
	o.open = func(path string) (file, error) {
		inner, err := openFile(path)
		if err != nil {
			return nil, err
		}
		return &faultyFile{inner, f}, nil
	}
	return o
}

type faultyFile struct {
	file
	by *FaultyFiles
}

func (f *faultyFile) WriteAt(b []byte, offset int64) (int, error) {
	f.by.Writes.Add(1)
	f.by.mu.Lock()
	defer f.by.mu.Unlock()
	faults := &f.by.faults
	if faults.WriteErr == nil {
		return f.file.WriteAt(b, offset)
	}
	fits := min(int64(len(b)), faults.Room)
	faults.Room -= fits
	n, err := f.file.WriteAt(b[:fits], offset)
	if err == nil && n < len(b) {
		err = faults.WriteErr
	}
	return n, err
}

func (f *faultyFile) Datasync() error {
	f.by.mu.Lock()
	err := f.by.faults.SyncErr
	f.by.mu.Unlock()
	if err != nil {
		return err
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
