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
	signal.Notify(witness, syscall.SIGUSR1)
	defer signal.Stop(witness)
	for range 10 {
		if err := syscall.Kill(syscall.Getpid(), syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		<-witness // or the next one would be one with it
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
