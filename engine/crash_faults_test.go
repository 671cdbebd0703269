package engine_test

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zsqio/zsq/mmapqueue"
)

// Faults that the crash harness must find. Each is of the machine that a daemon
// of the harness sees, so that the daemon itself is the one that ships.
const (
	faultLose   = "lose"   // one publish in a hundred is garbled as it is written
	faultForget = "forget" // so is what says that messages are finished
	faultHurry  = "hurry"  // the wall clock runs ten thousand times as fast as the monotonic one
)

// hurryDelay is how long messages are deferred at most where the clock hurries, in
// ms. It is far more than a daemon takes to start, or all would be due by then, and
// over in an instant by that clock.
const hurryDelay = 100_000

// plantedFault returns the disk and the clock of a daemon with that fault, of a
// harness that began then.
func plantedFault(fault string, began time.Time) (mmapqueue.FS, func() time.Time) {
	switch fault {
	case faultLose:
		return garbler{mmapqueue.OS, []byte{recordPublish}, 100}, time.Now
	case faultForget:
		return garbler{mmapqueue.OS, []byte{recordFinish, recordFinished}, 1}, time.Now
	case faultHurry:
		return nil, func() time.Time { now := time.Now(); return now.Add(10_000 * now.Sub(began)) }
	}
	return nil, time.Now
}

// TestCrashFindsFaults shows that the harness of TestCrash finds a daemon that
// loses what it acknowledged, one that forgets what was finished, and one that
// is too early.
func TestCrashFindsFaults(t *testing.T) {
	t.Parallel()
	for fault, want := range map[string]string{
		faultLose:   "acknowledged messages are lost",
		faultForget: "came again after its FIN was answered for",
		faultHurry:  " early",
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			bad := crash(t, "process", 50, 3, 1, fault)
			if !slices.ContainsFunc(bad, func(s string) bool { return strings.Contains(s, want) }) {
				t.Errorf("nobody complained that %q, among %d complaints", want, len(bad))
			}
		})
	}
}

// What mmapqueue's record.go draws.
const (
	recordHeader = 24
	recordKind   = 4

	recordPublish  = 1
	recordFinish   = 4
	recordFinished = 5
)

// garbler is a disk on which one in so many records of some kinds is damaged.
type garbler struct {
	mmapqueue.FS
	kinds []byte
	oneIn int
}

// Create is that of the disk below.
func (d garbler) Create(path string, size int64) (mmapqueue.File, error) {
	f, err := d.FS.Create(path, size)
	if err != nil {
		return nil, err
	}
	return &garbledFile{File: f, d: d}, nil
}

// Open is that of the disk below.
func (d garbler) Open(path string, write bool) (mmapqueue.File, error) {
	f, err := d.FS.Open(path, write)
	if err != nil {
		return nil, err
	}
	return &garbledFile{File: f, d: d}, nil
}

type garbledFile struct {
	mmapqueue.File
	d    garbler
	seen int // records of the kinds; one goroutine writes to a file
}

// WriteAt writes a batch of records.
func (f *garbledFile) WriteAt(b []byte, offset int64) (int, error) {
	b = slices.Clone(b)
	for at := 0; at+recordHeader < len(b); {
		if slices.Contains(f.d.kinds, b[at+recordKind]) {
			if f.seen++; f.seen%f.d.oneIn == 0 {
				b[at+recordHeader] ^= 0xff
			}
		}
		at += (recordHeader + int(binary.LittleEndian.Uint32(b[at:])) + 7) &^ 7
	}
	return f.File.WriteAt(b, offset)
}
