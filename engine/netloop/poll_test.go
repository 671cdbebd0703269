package netloop

import (
	"testing"

	"golang.org/x/sys/unix"
)

// Whatever a descriptor was watched for, afterwards it is watched for what was asked
// and nothing else; without interest not even its end is told.
func TestPollerChange(t *testing.T) {
	p, err := openPoller()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	events := func() uint32 {
		t.Helper()
		ready, err := p.look()
		if err != nil {
			t.Fatal(err)
		}
		if len(ready) == 0 {
			return 0
		}
		return ready[0].Events
	}
	all := []interest{wantNone, wantRead, wantWrite, wantBoth}
	for _, from := range all {
		for _, to := range all {
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			// Both ready: there is a byte to read, and room to write.
			if _, err := unix.Write(pair[1], one[:]); err != nil {
				t.Fatal(err)
			}
			for _, step := range [][2]interest{{wantNone, from}, {from, to}} {
				if err := p.change(pair[0], step[0], step[1]); err != nil {
					t.Fatalf("from %d to %d: %v", step[0], step[1], err)
				}
			}
			got := events()
			if read := got&unix.EPOLLIN != 0; read != (to&wantRead != 0) {
				t.Errorf("from %d to %d: events %#x", from, to, got)
			}
			if write := got&unix.EPOLLOUT != 0; write != (to&wantWrite != 0) {
				t.Errorf("from %d to %d: events %#x", from, to, got)
			}
			_ = unix.Close(pair[1])
			if got := events(); (got&unix.EPOLLHUP != 0) != (to != wantNone) {
				t.Errorf("from %d to %d, at the end: events %#x", from, to, got)
			}
			if err := p.change(pair[0], to, wantNone); err != nil {
				t.Fatalf("from %d to nothing: %v", to, err)
			}
			if got := events(); got != 0 {
				t.Errorf("from %d to %d, taken out: events %#x", from, to, got)
			}
			_ = unix.Close(pair[0])
		}
	}
}

// A signal that nobody reads is told once, to whoever waits.
func TestPollerEdge(t *testing.T) {
	p, err := openPoller()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := p.addEdge(fd); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := unix.Write(fd, one[:]); err != nil {
			t.Fatal(err)
		}
		if ready, err := p.wait(); err != nil || len(ready) != 1 || int(ready[0].Fd) != fd {
			t.Fatalf("wait: %v, %v", ready, err)
		}
		if ready, err := p.look(); err != nil || len(ready) > 0 {
			t.Fatalf("look, after wait: %v, %v", ready, err)
		}
	}
}
