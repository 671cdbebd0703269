package mmapqueue

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A bell wakes one goroutine that waits in a system call, as an event loop does.
// A goroutine that waits for a sync.Cond is woken by way of the run queue of
// whoever wakes it, which is an event loop that goes on with its round: another
// thread has to look for it there, and sleeps a while before it takes it. With a
// bell an answer comes some 20 us sooner in a strict ping-pong, at more CPU there
// (the writer then runs beside the loop) and less under load.
type bell struct {
	fd   int
	file *os.File // closes fd; nil: there was no descriptor left
}

// bellLess is how often a waiter without a descriptor looks.
const bellLess = time.Millisecond

func (b *bell) open() error {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("eventfd", err)
	}
	b.fd, b.file = fd, os.NewFile(uintptr(fd), "journal")
	return nil
}

var one = [8]byte{1}

// ring lets wait return, now or when it is called.
func (b *bell) ring() {
	if b.file != nil {
		_, _ = unix.Write(b.fd, one[:]) // room for 2^64 rings
	}
}

// wait returns after a ring. It may return without one.
func (b *bell) wait() {
	if b.file == nil {
		time.Sleep(bellLess)
		return
	}
	var rings [8]byte
	_, _ = unix.Read(b.fd, rings[:])
}

func (b *bell) close() error {
	if b.file == nil {
		return nil
	}
	f := b.file
	b.file = nil
	return f.Close()
}
