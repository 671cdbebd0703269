package engine

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zsqio/zsq/engine/broker"
	"github.com/zsqio/zsq/engine/httpapi"
	"github.com/zsqio/zsq/engine/netloop"
	"github.com/zsqio/zsq/engine/statsd"
	"github.com/zsqio/zsq/internal/wire"
	"github.com/zsqio/zsq/mmapqueue"
)

// Engine is a running daemon.
type Engine struct {
	opts          *Options
	log           *logger
	limits        wire.Limits
	identify      wire.IdentifyLimits
	defaultClient wire.Identify

	broker   *broker.Broker
	group    *netloop.Group
	handlers []*handler
	meta     *metadata
	peers    *peers
	statsd   *statsd.Pusher // nil when nothing is pushed
	auth     *authority     // nil when clients need no permission

	helperMu sync.Mutex // guards stopping and starting helpers
	stopping bool
	stopped  chan struct{} // closed when a stop begins
	helpers  sync.WaitGroup

	certs      *certificates  // nil without TLS
	handshakes sync.WaitGroup // goroutines of TLS handshakes

	system    system
	lock      *os.File
	started   time.Time
	tcpAddr   net.Addr
	httpAddr  net.Addr
	httpsAddr net.Addr
	servers   []*http.Server
	serverWG  sync.WaitGroup
	httpError chan error
}

// shutdownFlush bounds how long a stop waits for clients over HTTP, and then once more
// for those over TCP to take what is in their connections' output.
const shutdownFlush = time.Second

// New opens the data path, brings back what an earlier run left and listens.
// Nothing is served before Start. logOut gets the log, through a logbuf.Buffer.
func New(o *Options, logOut io.Writer) (*Engine, error) {
	return newOn(system{wall: time.Now, flushHTTP: shutdownFlush, flushTCP: shutdownFlush}, o, logOut)
}

// system is what a daemon has of the machine. Tests put others here, to show that
// they would find what such a machine does to messages.
type system struct {
	disk mmapqueue.FS // of the queues and the journal; nil: the system's
	wall func() time.Time

	flushHTTP, flushTCP time.Duration // how long a stop waits for clients
}

// wallBase returns how far the wall clock is ahead of netloop's. A thread may lose its
// processor between the readings of the two, so one is read on both sides of the other,
// and the closest of some tries counts.
func (s *system) wallBase() (base int64) {
	closest := int64(math.MaxInt64)
	before := netloop.Now()
	for tries := 0; tries < 4 && closest > wallCloseEnough; tries++ {
		wall := s.wall().UnixNano()
		after := netloop.Now()
		if apart := after - before; apart < closest {
			closest, base = apart, wall-before-apart/2
		}
		before = after
	}
	return base
}

// wallCloseEnough is what lies between the readings, in ns, on a thread that keeps its
// processor.
const wallCloseEnough = int64(10 * time.Microsecond)

func newOn(sys system, o *Options, logOut io.Writer) (_ *Engine, err error) {
	e := &Engine{opts: o, system: sys, log: newLogger(logOut, o.LogPrefix, o.LogFormat, o.LogLevel), started: time.Now(), httpError: make(chan error, 2), stopped: make(chan struct{})}
	e.limits = wire.Limits{MaxMsgSize: o.MaxMsgSize, MaxBodySize: o.MaxBodySize, MaxRdyCount: o.MaxRdyCount, MaxReqTimeout: within(o.MaxReqTimeout)}
	e.defaultClient = defaultClient(o)
	e.identify = wire.IdentifyLimits{
		MaxHeartbeatInterval: o.MaxHeartbeatInterval, MaxOutputBufferSize: int(o.MaxOutputBufferSize),
		MinOutputBufferTimeout: o.MinOutputBufferTimeout, MaxOutputBufferTimeout: o.MaxOutputBufferTimeout,
		MaxMsgTimeout: within(o.MaxMsgTimeout), MaxDeflateLevel: o.MaxDeflateLevel, MaxRdyCount: o.MaxRdyCount, Version: Version,
		TopologyRegion: o.TopologyRegion, TopologyZone: o.TopologyZone, AuthRequired: len(o.AuthHTTPAddresses) > 0,
	}
	defer func() {
		if err != nil {
			e.release()
		}
	}()
	if e.auth, err = newAuthority(o); err != nil {
		return nil, err
	}
	if e.lock, err = lockDataPath(e.dataPath()); err != nil {
		return nil, err
	}
	if e.certs, err = loadCertificates(o, e.log); err != nil {
		return nil, err
	}
	e.log.printf(LogInfo, "nsqd v%s (built w/%s)", Version, runtime.Version())
	e.log.printf(LogInfo, "ID: %d", o.ID)
	if err := e.openGroup(); err != nil {
		return nil, err
	}
	if err := e.openBroker(); err != nil {
		return nil, err
	}
	return e, e.listen()
}

func (e *Engine) dataPath() string {
	if e.opts.DataPath == "" {
		return "."
	}
	return e.opts.DataPath
}

// lockDataPath takes upstream's lock: flock on the directory itself.
func lockDataPath(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("failed to lock data-path: %w", err)
	}
	if s, err := f.Stat(); err != nil || !s.IsDir() {
		_ = f.Close()
		return nil, fmt.Errorf("failed to lock data-path: %s is not a directory", path)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("failed to lock data-path: cannot flock directory %s - %w (possibly in use by another instance of nsqd)", path, err)
	}
	return f, nil
}

// unlockDataPath gives the lock back. Closing alone would not do that yet: a process
// that is being started just now has our descriptors until it becomes its program.
func unlockDataPath(f *os.File) {
	_ = unix.Flock(int(f.Fd()), unix.LOCK_UN)
	_ = f.Close()
}

func (e *Engine) openGroup() (err error) {
	e.handlers = make([]*handler, e.opts.LoopCount())
	e.group, err = netloop.NewGroup(netloop.Options{
		Loops:       len(e.handlers),
		OutputLimit: e.opts.OutputLimit,
		ConnLimit:   int(e.opts.ConnectionLimit()),
		MemoryLimit: e.opts.ConnectionMemory(),
		Logf:        func(format string, args ...any) { e.log.printf(LogWarn, format, args...) },
	}, func(i int) netloop.Handler {
		e.handlers[i] = &handler{e: e}
		return e.handlers[i]
	})
	return err
}

func (e *Engine) openBroker() error {
	if err := checkFormat(e.dataPath(), e.log); err != nil {
		return err
	}
	e.spendReserve()
	mark, markErr := broker.TakeIDMark(e.idMarkPath(), e.system.wall().UnixNano())
	if unwritable(markErr) {
		return fmt.Errorf("data-path %s: %w", e.dataPath(), markErr)
	}
	leaveNote(e.dataPath())
	e.meta = newMetadata(filepath.Join(e.dataPath(), "nsqd.dat"), e)
	e.peers = newPeers(e)
	e.broker = broker.New(broker.Options{
		Shards:              len(e.handlers),
		MemQueueSize:        int(e.opts.MemQueueSize),
		MemoryLimit:         e.opts.MemoryBudget(),
		MaxMsgTimeout:       int64(within(e.opts.MaxMsgTimeout)),
		MaxChannelConsumers: e.opts.MaxChannelConsumers,
		Topology:            e.opts.topologyAware(),
		E2EWindow:           e.endToEndWindow(),
		MaxTopics:           e.opts.MaxTopics,
		MaxChannels:         e.opts.MaxChannels,
		DataPath:            e.dataPath(),
		Durability:          broker.Durability(e.opts.Durability),
		Unload:              e.opts.ExportUpstream != "",
		Journal: mmapqueue.JournalOptions{
			FS:   e.system.disk,
			Logf: func(format string, args ...any) { e.log.printf(LogError, format, args...) },
		},
		Log: mmapqueue.Options{
			FS:              e.system.disk,
			SegmentBytesMax: min(e.opts.fileBytes(), mmapqueue.DefaultSegmentBytesMax),
			SyncEvery:       e.opts.SyncEvery,
			SyncTimeout:     e.opts.SyncTimeout,
			Budget:          mmapqueue.NewBudget(e.opts.MaxBacklogBytes, e.opts.MaxBacklogBytesPerTopic),
			Handles:         backlogHandles(),
			Logf:            func(format string, args ...any) { e.log.printf(LogError, format, args...) },
		},
		Wall:    func() int64 { return e.system.wall().UnixNano() },
		Waker:   waker{e},
		Changed: e.changed,
		Created: e.peers.created,
		Logf: func(word, format string, args ...any) {
			level := LogError
			if word == LogInfo.Word() {
				level = LogInfo
			}
			e.log.printf(level, format, args...)
		},
	}, mark)
	if markErr != nil {
		e.log.printf(LogError, "%v", markErr)
		e.broker.ForgetIDMark()
	}
	for i, l := range e.group.Loops() {
		h := e.handlers[i]
		h.loop, h.shard = l, e.broker.Shard(i)
		now := netloop.Now()
		h.wallBase = e.system.wallBase()
		h.shard.Start(now, now+h.wallBase, h.onTimer)
	}
	if err := e.broker.Open(); err != nil {
		return err
	}
	if err := e.meta.load(e.broker); err != nil {
		return err
	}
	e.broker.EndRestore()
	if err := e.meta.write(); unwritable(err) {
		return err
	} else if err != nil {
		e.meta.changed(false) // the disk is full, say: it is tried again, while consumers make room
	}
	e.keepReserve()
	return nil
}

// waker is how the broker reaches the loops.
type waker struct{ e *Engine }

func (w waker) Wake(shard int)         { w.e.group.Loops()[shard].Wake() }
func (w waker) Do(shard int, f func()) { w.e.group.Loops()[shard].Do(f) }

// network tells a host:port from the path of a unix socket, as upstream does.
func network(addr string) string {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return "unix"
	}
	return "tcp"
}

func (e *Engine) listen() (err error) {
	if e.tcpAddr, err = e.group.Listen(network(e.opts.TCPAddress), e.opts.TCPAddress); err != nil {
		return fmt.Errorf("listen (%s) failed - %w", e.opts.TCPAddress, err)
	}
	e.log.printf(LogInfo, "TCP: listening on %s", e.tcpAddr)
	if e.opts.HTTPAddress != "" {
		l, err := net.Listen(network(e.opts.HTTPAddress), e.opts.HTTPAddress)
		if err != nil {
			return fmt.Errorf("listen (%s) failed - %w", e.opts.HTTPAddress, err)
		}
		e.httpAddr = l.Addr()
		e.log.printf(LogInfo, "HTTP: listening on %s", e.httpAddr)
		e.serve(e.bounded(l))
	}
	if e.certs != nil && e.opts.HTTPSAddress != "" {
		l, err := net.Listen("tcp", e.opts.HTTPSAddress)
		if err != nil {
			return fmt.Errorf("listen (%s) failed - %w", e.opts.HTTPSAddress, err)
		}
		e.httpsAddr = l.Addr()
		e.log.printf(LogInfo, "HTTPS: listening on %s", e.httpsAddr)
		e.serve(tls.NewListener(e.bounded(l), e.certs.https()))
	}
	return nil
}

// serve answers the HTTP API on l. The API itself tells TLS from plain requests.
func (e *Engine) serve(l net.Listener) {
	s := httpapi.NewServer(httpapi.New(e.httpConfig()), e.opts.ReapTimeout)
	s.ErrorLog = stdlog.New(serverLog{e.log}, "", 0)
	e.servers = append(e.servers, s)
	e.serverWG.Go(func() {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			e.httpError <- err
		}
	})
}

// TCPAddr and HTTPAddr return the addresses listened on; HTTPAddr is nil when
// HTTP is off.
func (e *Engine) TCPAddr() net.Addr { return e.tcpAddr }

// HTTPAddr is described at TCPAddr.
func (e *Engine) HTTPAddr() net.Addr { return e.httpAddr }

// HTTPSAddr returns the address listened on for HTTPS, nil when that is off.
func (e *Engine) HTTPSAddr() net.Addr { return e.httpsAddr }

// Start serves connections.
func (e *Engine) Start() {
	debug.SetGCPercent(gcPercent)
	e.meta.start()
	if e.certs != nil {
		e.certs.watch(e.opts.TLSReloadInterval)
	}
	e.group.Start()
	e.help(e.housekeep)
	e.peers.start()
	e.startStatsd()
}

// housekeepEvery is the rhythm of what the broker asks to be done now and then.
const housekeepEvery = time.Second

// housekeep runs beside the loops until a stop begins.
func (e *Engine) housekeep() {
	tick := time.NewTicker(housekeepEvery)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-e.stopped:
			return
		case <-tick.C:
			e.broker.Sweep(netloop.Now(), false)
			if e.broker.Health() == nil {
				e.keepReserve()
			}
			err := e.broker.ExtendIDMark(e.idMarkPath())
			if err != nil && !failing { // once, and not each second while the disk is full
				e.log.printf(LogError, "%v", err)
			}
			failing = err != nil
		}
	}
}

func (e *Engine) idMarkPath() string { return filepath.Join(e.dataPath(), "zsq", "ids") }

// gcPercent lets the small heap beside the arenas grow before it is collected.
const gcPercent = 200

// Failed tells of an HTTP listener that ended by itself.
func (e *Engine) Failed() <-chan error { return e.httpError }

// Shutdown stops the daemon and saves what it holds. An error says what could
// not be saved.
func (e *Engine) Shutdown() error {
	e.group.StopAccepting()
	e.log.printf(LogInfo, "TCP: closing %s", e.tcpAddr)
	e.stopServers()
	for _, addr := range []net.Addr{e.httpAddr, e.httpsAddr} {
		if addr != nil {
			e.log.printf(LogInfo, "HTTP: closing %s", addr)
		}
	}
	e.log.printf(LogInfo, "NSQ: stopping subsystems")
	e.helperMu.Lock()
	e.stopping = true
	e.helperMu.Unlock()
	close(e.stopped)
	e.peers.stop()
	e.auth.stop()
	if e.statsd != nil {
		e.statsd.Stop()
	}
	e.helpers.Wait() // they wait for loops, which still run
	ctx, cancel := context.WithTimeout(context.Background(), e.system.flushTCP)
	defer cancel()
	if err := e.group.Shutdown(ctx); err != nil {
		e.log.printf(LogWarn, "some clients did not take their last bytes: %v", err)
	}
	for _, h := range e.handlers {
		h.ended = true
	}
	e.handshakes.Wait() // their connections are closed
	if e.certs != nil {
		e.certs.end()
	}
	e.meta.stop()
	e.spendReserve()
	e.log.printf(LogInfo, "NSQ: closing topics")
	err := errors.Join(e.meta.write(), e.broker.Close())
	e.release()
	e.log.printf(LogInfo, "NSQ: bye")
	e.log.out.Flush()
	return err
}

// stopServers ends HTTP. A client that is slow there takes none of the time that
// those over TCP have.
func (e *Engine) stopServers() {
	ctx, cancel := context.WithTimeout(context.Background(), e.system.flushHTTP)
	defer cancel()
	for _, s := range e.servers {
		if s.Shutdown(ctx) != nil {
			_ = s.Close()
		}
	}
	e.serverWG.Wait()
}

// help runs f on a goroutine that Shutdown waits for. Once a stop has begun
// nothing is started any more, and the answer is false.
func (e *Engine) help(f func()) bool {
	e.helperMu.Lock()
	defer e.helperMu.Unlock()
	if !e.stopping {
		e.helpers.Go(f)
	}
	return !e.stopping
}

func (e *Engine) release() {
	if e.peers != nil {
		e.peers.stop()
	}
	e.auth.stop()
	for _, s := range e.servers {
		_ = s.Close()
	}
	if e.group != nil && e.broker == nil {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = e.group.Shutdown(ctx)
	}
	if e.lock != nil {
		unlockDataPath(e.lock)
		e.lock = nil
	}
}

func port(a net.Addr) int {
	switch a := a.(type) {
	case nil:
		return 0
	case *net.TCPAddr:
		return a.Port
	default:
		return -1
	}
}
