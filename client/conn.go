package nsq

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// IdentifyResponse is what a server says of itself when features are negotiated.
type IdentifyResponse struct {
	MaxRdyCount  int64 `json:"max_rdy_count"`
	TLSv1        bool  `json:"tls_v1"`
	Deflate      bool  `json:"deflate"`
	Snappy       bool  `json:"snappy"`
	AuthRequired bool  `json:"auth_required"`
}

// AuthResponse is what a server says when it accepts a secret.
type AuthResponse struct {
	Identity string `json:"identity"`
	//lint:ignore ST1003 go-nsq's name
	IdentityUrl     string `json:"identity_url"`
	PermissionCount int64  `json:"permission_count"`
}

// Conn is a connection to an nsqd. Producers and consumers have their own; one
// made by NewConn tells its delegate of all that happens.
//
// Once Connect has succeeded, two goroutines belong to it: the reader decodes
// frames and calls the delegate, the writer writes what the outbox has collected.
// Both end before OnClose is called.
type Conn struct {
	addr     string
	config   *Config
	delegate ConnDelegate
	internal internalDelegate // the delegate, when it is one of ours

	log     logging
	answers messageDelegate // what received messages have as Delegate

	nc net.Conn  // the socket, under TLS and compression
	r  io.Reader // the uppermost layer to read from
	up *upgrades

	out outbox

	maxRdy    atomic.Int64
	rdy       atomic.Int64
	lastRdy   atomic.Int64 // nanoseconds since 1970
	lastMsg   atomic.Int64
	inFlight  atomic.Int64
	closing   atomic.Bool // Close was called
	failed    atomic.Bool // an I/O error was reported
	drained   chan struct{}
	drainOnce sync.Once

	reading  sync.Mutex // guards setting nc, and orders deadlines: armed by the reader, ended by shutRead
	readOver bool

	respond sync.Mutex // one answer's callbacks at a time
}

// internalDelegate is what our own delegates offer instead of a call per frame.
// Their callbacks of answers may be called from several goroutines at once.
type internalDelegate interface {
	// onMessages gets the messages of one read, in order. The slice is valid
	// during the call.
	onMessages(c *Conn, messages []*Message)

	// onOKs gets a count of consecutive OK responses.
	onOKs(c *Conn, count int)
}

// NewConn returns a connection to addr that is not made yet. It panics if config
// is not made by NewConfig. It has no logger.
func NewConn(addr string, config *Config, delegate ConnDelegate) *Conn {
	if config.origin == nil {
		panic("Config must be created with NewConfig()")
	}
	c := &Conn{
		addr:     addr,
		config:   config,
		delegate: delegate,
		drained:  make(chan struct{}),
	}
	c.internal, _ = delegate.(internalDelegate)
	c.answers.c = c
	c.out.init()
	c.maxRdy.Store(2500)
	c.lastMsg.Store(time.Now().UnixNano())
	return c
}

// SetLogger sets the logger of all levels and the lowest level that is logged.
// The format shows where a line comes from: it has one %s for the address. An
// empty one is "(%s)".
func (c *Conn) SetLogger(l logger, lvl LogLevel, format string) {
	c.log.set(l, lvl, format)
}

// SetLoggerForLevel sets the logger of one level.
func (c *Conn) SetLoggerForLevel(l logger, lvl LogLevel, format string) {
	c.log.setForLevel(l, lvl, format)
}

// SetLoggerLevel sets the lowest level that is logged.
func (c *Conn) SetLoggerLevel(lvl LogLevel) {
	c.log.setLevel(lvl)
}

func (c *Conn) logf(lvl LogLevel, format string, args ...any) {
	if !c.log.enabled(lvl) {
		return
	}
	where := c.log.state.Load().fmt[lvl]
	if where == "" {
		where = "(%s)"
	}
	c.log.line(lvl, fmt.Sprintf(where, c.addr), format, args...)
}

// Connect makes the connection and negotiates its features. It returns what the
// server said, or nil from a server that does not negotiate. A failed dial's error
// is returned as it is, a failed negotiation's as an ErrIdentify. After an error
// the socket is closed, and OnClose is not called.
func (c *Conn) Connect() (*IdentifyResponse, error) {
	return c.connect(context.Background())
}

func (c *Conn) connect(ctx context.Context) (resp *IdentifyResponse, err error) {
	dialer := &net.Dialer{LocalAddr: c.config.LocalAddr, Timeout: c.config.DialTimeout}
	nc, err := dialer.DialContext(ctx, "tcp", c.addr)
	if err != nil {
		return nil, err
	}
	c.reading.Lock()
	c.nc, c.r = nc, nc
	c.reading.Unlock()
	c.up = &upgrades{socket: nc}
	c.out.open(c, nc)
	// Whoever cancels a connect closes the socket, which ends the handshake.
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer func() {
		stop()
		if err != nil {
			c.out.close(ErrNotConnected)
			nc.Close()
		}
	}()

	if err := c.out.append(MagicV2); err != nil {
		return nil, fmt.Errorf("[%s] failed to write magic - %s", c.addr, err)
	}
	resp, err = c.identify()
	if err != nil {
		return nil, err
	}
	if resp != nil && resp.AuthRequired {
		if c.config.AuthSecret == "" {
			c.logf(LogLevelError, "Auth Required")
			return nil, errors.New("Auth Required")
		}
		if err := c.auth(c.config.AuthSecret); err != nil {
			c.logf(LogLevelError, "Auth Failed %s", err)
			return nil, err
		}
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}

	written := make(chan struct{})
	go func() {
		defer close(written)
		c.out.run(c)
	}()
	go c.run(written)
	return resp, nil
}

// identify tells the server who we are, and adds the layers both want.
func (c *Conn) identify() (*IdentifyResponse, error) {
	cfg := c.config
	cmd, err := Identify(map[string]any{
		"client_id":             cfg.ClientID,
		"hostname":              cfg.Hostname,
		"user_agent":            cfg.UserAgent,
		"short_id":              cfg.ClientID, // for servers that are older than client_id
		"long_id":               cfg.Hostname, // and than hostname
		"tls_v1":                cfg.TlsV1,
		"deflate":               cfg.Deflate,
		"deflate_level":         cfg.DeflateLevel,
		"snappy":                cfg.Snappy,
		"feature_negotiation":   true,
		"heartbeat_interval":    millisecondsOrOff(cfg.HeartbeatInterval),
		"sample_rate":           cfg.SampleRate,
		"output_buffer_size":    cfg.OutputBufferSize,
		"output_buffer_timeout": millisecondsOrOff(cfg.OutputBufferTimeout),
		"msg_timeout":           int64(cfg.MsgTimeout / time.Millisecond),
		"topology_region":       cfg.TopologyRegion,
		"topology_zone":         cfg.TopologyZone,
	})
	if err != nil {
		return nil, ErrIdentify{err.Error()}
	}
	if err := c.WriteCommand(cmd); err != nil {
		return nil, ErrIdentify{err.Error()}
	}
	frameType, data, err := ReadUnpackedResponse(c, cfg.MaxMsgSize)
	switch {
	case err != nil:
		return nil, ErrIdentify{err.Error()}
	case frameType == FrameTypeError:
		return nil, ErrIdentify{string(data)}
	case len(data) == 0:
		return nil, ErrIdentify{"empty response"}
	case data[0] != '{':
		return nil, nil // it does not negotiate
	}
	resp := new(IdentifyResponse)
	if err := json.Unmarshal(data, resp); err != nil {
		return nil, ErrIdentify{err.Error()}
	}
	c.logf(LogLevelDebug, "IDENTIFY response: %+v", resp)
	c.maxRdy.Store(resp.MaxRdyCount)
	if err := c.upgrade(resp); err != nil {
		return nil, ErrIdentify{err.Error()}
	}
	return resp, nil
}

// millisecondsOrOff keeps -1, which turns a thing off.
func millisecondsOrOff(d time.Duration) int64 {
	if d == -1 {
		return -1
	}
	return int64(d / time.Millisecond)
}

func (c *Conn) auth(secret string) error {
	cmd, err := Auth(secret)
	if err != nil {
		return err
	}
	if err := c.WriteCommand(cmd); err != nil {
		return err
	}
	frameType, data, err := ReadUnpackedResponse(c, c.config.MaxMsgSize)
	if err != nil {
		return err
	}
	if frameType == FrameTypeError {
		return errors.New("Error authenticating " + string(data))
	}
	var resp AuthResponse
	if err := json.Unmarshal(data, &resp); err != nil {
		return err
	}
	c.logf(LogLevelInfo, "Auth accepted. Identity: %q %s Permissions: %d",
		resp.Identity, resp.IdentityUrl, resp.PermissionCount)
	return nil
}

// Close asks the connection to close, once all messages that it has delivered are
// answered. It does not wait; OnClose tells of the end.
func (c *Conn) Close() error {
	c.closing.Store(true)
	if c.inFlight.Load() == 0 {
		c.drain()
	}
	return nil
}

// drain lets the reader end. After Close it is called by whoever sees that
// nothing is in flight:
//
//	Close                        finish
//	closing = true
//	                             in flight = 0
//	in flight is 0: drain
//	                             closing is true: drain
//
// Each stores before it looks, so at least one of the two sees the other's store.
func (c *Conn) drain() {
	c.drainOnce.Do(func() {
		close(c.drained)
		c.shutRead()
	})
}

// shutRead ends the read under way, and all later ones.
func (c *Conn) shutRead() {
	c.reading.Lock()
	defer c.reading.Unlock()
	c.readOver = true
	if c.nc != nil {
		c.nc.SetReadDeadline(time.Unix(1, 0))
	}
}

// armRead sets the deadline of the next read; false means that reading is over.
func (c *Conn) armRead() bool {
	c.reading.Lock()
	defer c.reading.Unlock()
	if c.readOver {
		return false
	}
	c.nc.SetReadDeadline(time.Now().Add(c.config.ReadTimeout))
	return true
}

// abort closes at once. What is in flight is the server's again.
func (c *Conn) abort() {
	c.closing.Store(true)
	c.out.close(ErrNotConnected)
	c.drain()
	if nc := c.socket(); nc != nil {
		nc.Close()
	}
}

// socket returns the connection's socket, nil before there is one.
func (c *Conn) socket() net.Conn {
	c.reading.Lock()
	defer c.reading.Unlock()
	return c.nc
}

// run is the reader's goroutine: it reads until the connection ends, waits for
// the messages that are still in flight if Close was called, and cleans up.
func (c *Conn) run(written <-chan struct{}) {
	err := c.readLoop()
	if c.closing.Load() && (errors.Is(err, io.EOF) || c.isOver()) {
		if n := c.inFlight.Load(); n > 0 {
			// The server may have shut its own side only.
			c.logf(LogLevelWarning, "delaying close, %d outstanding messages", n)
			select {
			case <-c.drained:
			case <-written:
			}
		}
	} else if err != nil {
		c.ioError(err)
		c.out.close(ErrNotConnected)
		c.nc.Close() // ends a write that is under way
	}
	c.logf(LogLevelInfo, "readLoop exiting")
	c.logf(LogLevelInfo, "beginning close")
	c.closing.Store(true)
	c.drain()
	c.out.finish()
	<-written
	c.logf(LogLevelInfo, "writeLoop exiting")
	c.nc.Close()
	c.logf(LogLevelInfo, "clean close complete")
	c.delegate.OnClose(c)
}

// isOver reports whether shutRead was called.
func (c *Conn) isOver() bool {
	c.reading.Lock()
	defer c.reading.Unlock()
	return c.readOver
}

// ioError reports the first failure of the connection, and lets it end.
func (c *Conn) ioError(err error) {
	if errors.Is(err, net.ErrClosed) || !c.failed.CompareAndSwap(false, true) {
		return
	}
	c.logf(LogLevelError, "IO error - %s", err)
	c.delegate.OnIOError(c, err)
}

// IsClosing reports whether the connection is about to close, or closed.
func (c *Conn) IsClosing() bool {
	return c.closing.Load()
}

// RDY returns the ready count that SetRDY stored.
func (c *Conn) RDY() int64 {
	return c.rdy.Load()
}

// LastRDY returns what RDY returns.
func (c *Conn) LastRDY() int64 {
	return c.rdy.Load()
}

// SetRDY stores a ready count; it sends nothing.
func (c *Conn) SetRDY(rdy int64) {
	c.rdy.Store(rdy)
	if rdy > 0 {
		c.lastRdy.Store(time.Now().UnixNano())
	}
}

// MaxRDY returns the largest ready count that the server accepts.
func (c *Conn) MaxRDY() int64 {
	return c.maxRdy.Load()
}

// LastRdyTime returns when SetRDY last stored more than zero.
func (c *Conn) LastRdyTime() time.Time {
	return time.Unix(0, c.lastRdy.Load())
}

// LastMessageTime returns when the last message came, and before the first when
// the connection was created.
func (c *Conn) LastMessageTime() time.Time {
	return time.Unix(0, c.lastMsg.Load())
}

// RemoteAddr returns the server's address; nil before Connect.
func (c *Conn) RemoteAddr() net.Addr {
	if nc := c.socket(); nc != nil {
		return nc.RemoteAddr()
	}
	return nil
}

// String returns the address as it was given.
func (c *Conn) String() string {
	return c.addr
}

// Read reads decoded bytes, with Config.ReadTimeout as its limit. It is for use
// before Connect has returned; afterwards the reader takes what comes.
func (c *Conn) Read(p []byte) (int, error) {
	if c.r == nil {
		return 0, ErrNotConnected
	}
	if !c.armRead() {
		return 0, io.EOF
	}
	return c.r.Read(p)
}

// Write puts bytes into the outbox, as part of the stream of commands. Flush
// writes them.
func (c *Conn) Write(p []byte) (int, error) {
	if err := c.out.append(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Flush writes all that is in the outbox.
func (c *Conn) Flush() error {
	return c.out.flush()
}

// WriteCommand writes a command, and all that was there before it, and waits for
// that. It may be called from any goroutine. A failure is also reported to the
// delegate.
func (c *Conn) WriteCommand(cmd *Command) error {
	err := c.out.append(nil, cmd)
	if err == nil {
		err = c.out.flush()
	}
	if err != nil {
		c.ioError(err)
	}
	return err
}
