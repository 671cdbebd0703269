package netloop

import (
	"errors"
	"os"
	"reflect"
	"unsafe"

	"github.com/panjf2000/gnet/v2/pkg/netpoll"
	"golang.org/x/sys/unix"
)

// eventsMax is how many ready descriptors one wait takes from the kernel.
const eventsMax = 512

// A poller is gnet's poller, which says how descriptors are watched, with a wait of
// our own. gnet's Polling yields to the Go scheduler whenever nothing is ready. In a
// process with a processor to spare that wakes a thread, which finds nothing to do
// and goes back to sleep: at 20,000 messages a second it was half of the CPU time.
//
// Connections are level-triggered, for they may leave bytes unread; the loop's own
// eventfd and timerfd are edge-triggered, for nobody reads them. A poller belongs to
// its loop.
type poller struct {
	*netpoll.Poller
	fd     int // the epoll descriptor
	pa     netpoll.PollAttachment
	events []unix.EpollEvent
}

func openPoller() (*poller, error) {
	p, err := netpoll.OpenPoller()
	if err != nil {
		return nil, err
	}
	// The poller does not tell its descriptor. Its version is pinned in go.mod, and
	// every test of this package fails when the field is another one.
	fd := reflect.ValueOf(p).Elem().FieldByName("fd")
	if fd.Kind() != reflect.Int {
		return nil, errors.Join(errors.New("gnet's poller has no descriptor where it had one"), p.Close())
	}
	return &poller{Poller: p, fd: int(fd.Int()), events: make([]unix.EpollEvent, eventsMax)}, nil
}

func (p *poller) attach(fd int) *netpoll.PollAttachment {
	p.pa.FD = fd
	return &p.pa
}

// addEdge watches a descriptor that is signalled and never read.
func (p *poller) addEdge(fd int) error { return p.AddRead(p.attach(fd), true) }

// change moves what a descriptor is watched for from had to want. netpoll cannot
// change an interest to writing only, nor to nothing, hence the detours. Without any
// interest the descriptor is taken out: the kernel would still report errors.
func (p *poller) change(fd int, had, want interest) error {
	if had == want {
		return nil
	}
	if had != wantNone && want&wantRead == 0 {
		if err := p.Delete(fd); err != nil {
			return err
		}
		had = wantNone
	}
	pa := p.attach(fd)
	switch {
	case want == wantNone:
		return nil
	case had == wantNone && want == wantRead:
		return p.AddRead(pa, false)
	case had == wantNone && want == wantWrite:
		return p.AddWrite(pa, false)
	case had == wantNone:
		return p.AddReadWrite(pa, false)
	case want == wantRead:
		return p.ModRead(pa, false)
	}
	return p.ModReadWrite(pa, false)
}

// look returns the descriptors that are ready now, valid until the next call. It
// is a raw system call, for it cannot sleep.
func (p *poller) look() ([]unix.EpollEvent, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.fd), uintptr(unsafe.Pointer(&p.events[0])), eventsMax, 0, 0, 0)
	if errno != 0 && errno != unix.EINTR {
		return nil, os.NewSyscallError("epoll_pwait", errno)
	}
	if errno != 0 {
		n = 0
	}
	return p.events[:n], nil
}

// wait is look, until there is something.
func (p *poller) wait() ([]unix.EpollEvent, error) {
	for {
		n, err := unix.EpollWait(p.fd, p.events, -1)
		switch {
		case err == nil && n > 0:
			return p.events[:n], nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return nil, os.NewSyscallError("epoll_wait", err)
		}
	}
}
