package tool

import (
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"
)

// TestNotify shows that many signals of one kind, which nobody takes, keep none of
// another kind away.
func TestNotify(t *testing.T) {
	signals := notify(syscall.SIGUSR1, syscall.SIGUSR2)
	witness := make(chan os.Signal, 100)
	signal.Notify(witness, syscall.SIGUSR1, syscall.SIGUSR2)
	defer signal.Stop(witness)
	send := func(kind syscall.Signal) {
		t.Helper()
		if err := syscall.Kill(syscall.Getpid(), kind); err != nil {
			t.Fatal(err)
		}
		<-witness // two that wait would be one
	}
	for range 10 {
		send(syscall.SIGUSR1)
	}
	send(syscall.SIGUSR2)
	patience := time.After(2 * time.Minute)
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
