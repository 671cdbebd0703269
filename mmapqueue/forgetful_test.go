package mmapqueue

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
)

// ForgetfulFiles remember which writes were synced, so that a loss of power can
// be had at any moment.
type ForgetfulFiles struct {
	mu    sync.Mutex
	files map[string]*forgetful

	hold, held chan struct{} // syncs wait for hold when it is not nil
}

// forgetful is one file: what is durable, and the writes since.
type forgetful struct {
	durable []byte
	since   []write
}

type write struct {
	offset int64
	b      []byte
}

// NewForgetfulFiles returns a disk without files.
func NewForgetfulFiles() *ForgetfulFiles {
	return &ForgetfulFiles{files: map[string]*forgetful{}}
}

// Use returns o with its files on this disk.
func (d *ForgetfulFiles) Use(o JournalOptions) JournalOptions {
	o.create = func(path string, size int64) (file, error) {
		f, err := createFile(path, size)
		if err != nil {
			return nil, err
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.files[path] = &forgetful{durable: make([]byte, size)}
		return &forgetfulFile{f, d, d.files[path]}, nil
	}
	o.open = func(path string) (file, error) {
		f, err := openFile(path)
		if err != nil {
			return nil, err
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		return &forgetfulFile{f, d, d.files[path]}, nil
	}
	return o
}

type forgetfulFile struct {
	file
	d *ForgetfulFiles
	f *forgetful
}

func (f *forgetfulFile) WriteAt(b []byte, offset int64) (int, error) {
	f.d.mu.Lock()
	f.f.since = append(f.f.since, write{offset, append([]byte(nil), b...)})
	f.d.mu.Unlock()
	return f.file.WriteAt(b, offset)
}

func (f *forgetfulFile) Datasync() error {
	f.d.mu.Lock()
	hold, held := f.d.hold, f.d.held
	f.d.mu.Unlock()
	if hold != nil {
		close(held)
		<-hold
	}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	for _, w := range f.f.since {
		copy(f.f.durable[w.offset:], w.b)
	}
	f.f.since = nil
	return nil
}

// Hold makes the next sync wait for LetGo; AwaitHeld returns when it does.
func (d *ForgetfulFiles) Hold() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hold, d.held = make(chan struct{}), make(chan struct{})
}

// AwaitHeld is described at Hold.
func (d *ForgetfulFiles) AwaitHeld() { <-d.held }

// LetGo lets all syncs go on.
func (d *ForgetfulFiles) LetGo() {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.hold)
	d.hold = nil
}

// PowerCut writes to dir what a loss of power leaves: all that is durable, and
// any sectors of what was written since.
func (d *ForgetfulFiles) PowerCut(dir string, rng *rand.Rand) error {
	const sector = 512
	d.mu.Lock()
	defer d.mu.Unlock()
	for path, f := range d.files {
		if _, err := os.Stat(path); err != nil {
			continue // removed
		}
		image := append([]byte(nil), f.durable...)
		for _, w := range f.since {
			for at := int64(0); at < int64(len(w.b)); {
				next := min(int64(len(w.b)), (w.offset+at)/sector*sector+sector-w.offset)
				if rng.IntN(2) == 0 {
					copy(image[w.offset+at:], w.b[at:next])
				}
				at = next
			}
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(path)), image, 0o600); err != nil {
			return err
		}
	}
	return nil
}
