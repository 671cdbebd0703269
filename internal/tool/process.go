package tool

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"

	nsq "github.com/zsqio/zsq/client"
)

// Version is the release of upstream's tools whose flags and output ours have.
// It is what --version and the user agents say.
const Version = "1.3.0"

// Exit codes of every tool.
const (
	ExitOK    = 0 // a clean end, also by INT and TERM
	ExitError = 1 // something failed, or the flags do not go together
	ExitUsage = 2 // an unknown flag, or a flag with a bad value
)

// A Process is what a tool sees of the process it runs in.
type Process struct {
	Name    string   // the tool's name
	Args    []string // without the name
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Signals <-chan os.Signal // INT, TERM and what Main was told
	Log     *log.Logger      // standard error with date and time
}

// NewProcess returns a process of the given streams. A nil stdin is empty.
func NewProcess(name string, args []string, stdin io.Reader, stdout, stderr io.Writer, signals <-chan os.Signal) *Process {
	return &Process{
		Name: name, Args: args, Stdin: stdin, Stdout: stdout, Stderr: stderr,
		Signals: signals, Log: log.New(stderr, "", log.LstdFlags),
	}
}

// Main runs a tool in the real process and ends it with run's exit code. INT,
// TERM and the extra signals are sent to Process.Signals; others do what the
// system has them do.
func Main(name string, run func(*Process) int, extra ...os.Signal) {
	signals := notify(append(extra, syscall.SIGINT, syscall.SIGTERM)...)
	os.Exit(run(NewProcess(name, os.Args[1:], os.Stdin, os.Stdout, os.Stderr, signals)))
}

// notify returns a go-chan of these signals. One of each kind waits while nobody
// takes it, however many of another kind came before: hang-ups keep no TERM away.
// Its goroutines, one a kind, live as long as the process.
func notify(kinds ...os.Signal) <-chan os.Signal {
	signals := make(chan os.Signal)
	for _, kind := range kinds {
		one := make(chan os.Signal, 1)
		signal.Notify(one, kind)
		go func() {
			for s := range one {
				signals <- s
			}
		}()
	}
	return signals
}

// Flags returns an empty flag set that reports to standard error.
func (p *Process) Flags() *flag.FlagSet {
	fs := flag.NewFlagSet(p.Name, flag.ContinueOnError)
	fs.SetOutput(p.Stderr)
	return fs
}

// Parse reads the arguments into fs. When end is true the tool ends with the
// code, and the reason has been printed.
func (p *Process) Parse(fs *flag.FlagSet) (code int, end bool) {
	switch err := fs.Parse(p.Args); {
	case errors.Is(err, flag.ErrHelp):
		return ExitOK, true
	case err != nil:
		return ExitUsage, true
	}
	return ExitOK, false
}

// Start is how most tools begin: it gives fs --version, reads the arguments, and
// has check, which looks at what they say together, refuse them. When end is true
// the tool ends with the code, and what there is to say has been said.
func (p *Process) Start(fs *flag.FlagSet, versionHelp string, check func() error) (code int, end bool) {
	version := fs.Bool("version", false, versionHelp)
	if code, end := p.Parse(fs); end {
		return code, true
	}
	if *version {
		return p.PrintVersion(), true
	}
	if err := check(); err != nil {
		return p.Fatal(err), true
	}
	return ExitOK, false
}

// PrintVersion answers --version and returns the exit code.
func (p *Process) PrintVersion() int {
	fmt.Fprintf(p.Stdout, "%s v%s\n", p.Name, Version)
	return ExitOK
}

// Fatal logs the error in one line and returns the exit code.
func (p *Process) Fatal(err error) int {
	p.Log.Print(err)
	return ExitError
}

// UserAgent is what the tool calls itself to nsqd.
func (p *Process) UserAgent() string {
	return fmt.Sprintf("%s/%s go-nsq/%s", p.Name, Version, nsq.VERSION)
}

// TerminalSize returns the size of the terminal that w writes to, in characters
// and lines; ok is false if w is no terminal.
func TerminalSize(w io.Writer) (width, height int, ok bool) {
	f, isFile := w.(*os.File)
	if !isFile || !term.IsTerminal(int(f.Fd())) {
		return 0, 0, false
	}
	width, height, err := term.GetSize(int(f.Fd()))
	if err != nil || width <= 0 || height <= 0 {
		return 80, 24, true // a terminal that does not tell
	}
	return width, height, true
}

// IsTerminal says whether w, or r, is a terminal.
func IsTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
