package tool

import (
	"syscall"
	"testing"
	"time"
)

// TestNotify shows that many signals of one kind, which nobody takes, keep none of
// another kind away.
func TestNotify(t *testing.T) {
	signals := notify(syscall.SIGUSR1, syscall.SIGUSR2)
	for range 100 {
		if err := syscall.Kill(syscall.Getpid(), syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Kill(syscall.Getpid(), syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	patience := time.After(time.Minute)
	for {
		select {
		case s := <-signals:
			if s == syscall.SIGUSR2 {
				return
			}
		case <-patience:
			t.Fatal("the second kind has not come")
		}
	}
}
