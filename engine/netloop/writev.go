package netloop

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// writev sends the pieces of iov, which is not empty. x/sys's own takes slices
// of slices and allocates beyond eight of them.
//
// The unsafe pointer is to the slice's first element, which the call keeps
// alive; the pieces are held by iov itself, as pointers that the collector sees.
func writev(fd int, iov []unix.Iovec) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
