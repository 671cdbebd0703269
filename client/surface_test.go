package nsq

import (
	"io"
	"log"
	"net"
	"net/http"
	"reflect"
	"testing"
	"time"
)

// This file does not compile when an identifier of go-nsq v1.1.0 is missing, or has
// another type. internal/interop/client compares with go-nsq itself.

var (
	_ func() *Command                                                                         = Nop
	_ func() *Command                                                                         = Ping
	_ func() *Command                                                                         = StartClose
	_ func() *Config                                                                          = NewConfig
	_ func(*Command) string                                                                   = (*Command).String
	_ func(*Command, io.Writer) (int64, error)                                                = (*Command).WriteTo
	_ func(*Config) error                                                                     = (*Config).Validate
	_ func(*Config, string, any) error                                                        = (*Config).Set
	_ func(*ConfigFlag) string                                                                = (*ConfigFlag).String
	_ func(*ConfigFlag, string) error                                                         = (*ConfigFlag).Set
	_ func(*Conn) (*IdentifyResponse, error)                                                  = (*Conn).Connect
	_ func(*Conn) bool                                                                        = (*Conn).IsClosing
	_ func(*Conn) error                                                                       = (*Conn).Close
	_ func(*Conn) error                                                                       = (*Conn).Flush
	_ func(*Conn) int64                                                                       = (*Conn).LastRDY
	_ func(*Conn) int64                                                                       = (*Conn).MaxRDY
	_ func(*Conn) int64                                                                       = (*Conn).RDY
	_ func(*Conn) net.Addr                                                                    = (*Conn).RemoteAddr
	_ func(*Conn) string                                                                      = (*Conn).String
	_ func(*Conn) time.Time                                                                   = (*Conn).LastMessageTime
	_ func(*Conn) time.Time                                                                   = (*Conn).LastRdyTime
	_ func(*Conn, *Command) error                                                             = (*Conn).WriteCommand
	_ func(*Conn, LogLevel)                                                                   = (*Conn).SetLoggerLevel
	_ func(*Conn, []byte) (int, error)                                                        = (*Conn).Read
	_ func(*Conn, []byte) (int, error)                                                        = (*Conn).Write
	_ func(*Conn, int64)                                                                      = (*Conn).SetRDY
	_ func(*Conn, logger, LogLevel, string)                                                   = (*Conn).SetLogger
	_ func(*Conn, logger, LogLevel, string)                                                   = (*Conn).SetLoggerForLevel
	_ func(*Consumer)                                                                         = (*Consumer).Stop
	_ func(*Consumer) *ConsumerStats                                                          = (*Consumer).Stats
	_ func(*Consumer) bool                                                                    = (*Consumer).IsStarved
	_ func(*Consumer, *http.Client)                                                           = (*Consumer).SetLookupdHttpClient
	_ func(*Consumer, Handler)                                                                = (*Consumer).AddHandler
	_ func(*Consumer, Handler, int)                                                           = (*Consumer).AddConcurrentHandlers
	_ func(*Consumer, LogLevel)                                                               = (*Consumer).SetLoggerLevel
	_ func(*Consumer, []string) error                                                         = (*Consumer).ConnectToNSQDs
	_ func(*Consumer, []string) error                                                         = (*Consumer).ConnectToNSQLookupds
	_ func(*Consumer, any)                                                                    = (*Consumer).SetBehaviorDelegate
	_ func(*Consumer, int)                                                                    = (*Consumer).ChangeMaxInFlight
	_ func(*Consumer, logger, LogLevel)                                                       = (*Consumer).SetLogger
	_ func(*Consumer, logger, LogLevel)                                                       = (*Consumer).SetLoggerForLevel
	_ func(*Consumer, string) error                                                           = (*Consumer).ConnectToNSQD
	_ func(*Consumer, string) error                                                           = (*Consumer).ConnectToNSQLookupd
	_ func(*Consumer, string) error                                                           = (*Consumer).DisconnectFromNSQD
	_ func(*Consumer, string) error                                                           = (*Consumer).DisconnectFromNSQLookupd
	_ func(*ExponentialStrategy, int) time.Duration                                           = (*ExponentialStrategy).Calculate
	_ func(*FullJitterStrategy, int) time.Duration                                            = (*FullJitterStrategy).Calculate
	_ func(*Message)                                                                          = (*Message).DisableAutoResponse
	_ func(*Message)                                                                          = (*Message).Finish
	_ func(*Message)                                                                          = (*Message).Touch
	_ func(*Message) bool                                                                     = (*Message).HasResponded
	_ func(*Message) bool                                                                     = (*Message).IsAutoResponseDisabled
	_ func(*Message, io.Writer) (int64, error)                                                = (*Message).WriteTo
	_ func(*Message, time.Duration)                                                           = (*Message).Requeue
	_ func(*Message, time.Duration)                                                           = (*Message).RequeueWithoutBackoff
	_ func(*Producer)                                                                         = (*Producer).Stop
	_ func(*Producer) error                                                                   = (*Producer).Ping
	_ func(*Producer) string                                                                  = (*Producer).String
	_ func(*Producer, LogLevel)                                                               = (*Producer).SetLoggerLevel
	_ func(*Producer, logger, LogLevel)                                                       = (*Producer).SetLogger
	_ func(*Producer, logger, LogLevel)                                                       = (*Producer).SetLoggerForLevel
	_ func(*Producer, string, [][]byte) error                                                 = (*Producer).MultiPublish
	_ func(*Producer, string, [][]byte, chan *ProducerTransaction, ...any) error              = (*Producer).MultiPublishAsync
	_ func(*Producer, string, []byte) error                                                   = (*Producer).Publish
	_ func(*Producer, string, []byte, chan *ProducerTransaction, ...any) error                = (*Producer).PublishAsync
	_ func(*Producer, string, time.Duration, []byte) error                                    = (*Producer).DeferredPublish
	_ func(*Producer, string, time.Duration, []byte, chan *ProducerTransaction, ...any) error = (*Producer).DeferredPublishAsync
	_ func(ErrIdentify) string                                                                = ErrIdentify.Error
	_ func(ErrProtocol) string                                                                = ErrProtocol.Error
	_ func(HandlerFunc, *Message) error                                                       = HandlerFunc.HandleMessage
	_ func(LogLevel) string                                                                   = LogLevel.String
	_ func(MessageID) *Command                                                                = Finish
	_ func(MessageID) *Command                                                                = Touch
	_ func(MessageID, []byte) *Message                                                        = NewMessage
	_ func(MessageID, time.Duration) *Command                                                 = Requeue
	_ func([]byte) (*Message, error)                                                          = DecodeMessage
	_ func([]byte) (int32, []byte, error)                                                     = UnpackResponse
	_ func(int) *Command                                                                      = Ready
	_ func(map[string]any) (*Command, error)                                                  = Identify
	_ func(string) (*Command, error)                                                          = Auth
	_ func(string) bool                                                                       = IsValidChannelName
	_ func(string) bool                                                                       = IsValidTopicName
	_ func(string, *Config) (*Producer, error)                                                = NewProducer
	_ func(string, *Config, ConnDelegate) *Conn                                               = NewConn
	_ func(string, [][]byte) (*Command, error)                                                = MultiPublish
	_ func(string, []byte) *Command                                                           = Publish
	_ func(string, string) *Command                                                           = Register
	_ func(string, string) *Command                                                           = Subscribe
	_ func(string, string) *Command                                                           = UnRegister
	_ func(string, string, *Config) (*Consumer, error)                                        = NewConsumer
	_ func(string, time.Duration, []byte) *Command                                            = DeferredPublish
)

// The readers of frames have a limit in one version and none in the other; calls
// of both kinds compile.
var (
	_ = func(r io.Reader) ([]byte, error) { return ReadResponse(r) }
	_ = func(r io.Reader) ([]byte, error) { return ReadResponse(r, 1) }
	_ = func(r io.Reader) (int32, []byte, error) { return ReadUnpackedResponse(r) }
	_ = func(r io.Reader) (int32, []byte, error) { return ReadUnpackedResponse(r, 1) }
)

// Constants keep their types, or that they have none.
const (
	_ float32  = LogLevelMax - StateInit - StateDisconnected - StateConnected - MsgIDLength
	_ string   = VERSION
	_ LogLevel = LogLevelDebug - LogLevelInfo - LogLevelWarning - LogLevelError
	_ int32    = FrameTypeResponse - FrameTypeError - FrameTypeMessage
)

var (
	_ []byte          = MagicV1
	_ []byte          = MagicV2
	_ []error         = []error{ErrNotConnected, ErrStopped, ErrClosing, ErrAlreadyConnected, ErrOverMaxInFlight}
	_ logger          = (*log.Logger)(nil)
	_ chan int        = (*Consumer)(nil).stopChan()
	_ [16]byte        = MessageID{}
	_ Handler         = HandlerFunc(nil)
	_ BackoffStrategy = (*ExponentialStrategy)(nil)
	_ BackoffStrategy = (*FullJitterStrategy)(nil)
	_ error           = ErrIdentify{}
	_ error           = ErrProtocol{}

	// Programs write these without field names, and compare the errors.
	_ = Command{[]byte(nil), [][]byte(nil), []byte(nil)}
	_ = IdentifyResponse{int64(0), false, false, false, false}
	_ = AuthResponse{"", "", int64(0)}
	_ = ConsumerStats{uint64(0), uint64(0), uint64(0), int(0)}
	_ = ConfigFlag{(*Config)(nil)}
	_ = ErrIdentify{"a"} == ErrIdentify{"b"}
	_ = ErrProtocol{"a"} == ErrProtocol{"b"}
	_ = Message{
		ID: MessageID{}, Body: []byte(nil), Timestamp: int64(0), Attempts: uint16(0),
		NSQDAddress: "", Delegate: MessageDelegate(nil),
	}
	_ = ProducerTransaction{Error: error(nil), Args: []any(nil)}
)

// stopChan has the type of the field, which a var above then checks.
func (r *Consumer) stopChan() chan int {
	if r == nil {
		return nil
	}
	return r.StopChan
}

// Each interface has these methods and no others: values of these types fit both
// ways.
var (
	_ = func(d Handler) interface{ HandleMessage(*Message) error } { return d }
	_ = func(d interface{ HandleMessage(*Message) error }) Handler { return d }
	_ = func(d FailedMessageLogger) interface{ LogFailedMessage(*Message) } { return d }
	_ = func(d interface{ LogFailedMessage(*Message) }) FailedMessageLogger { return d }
	_ = func(d DiscoveryFilter) interface{ Filter([]string) []string } { return d }
	_ = func(d interface{ Filter([]string) []string }) DiscoveryFilter { return d }
	_ = func(d BackoffStrategy) interface{ Calculate(int) time.Duration } { return d }
	_ = func(d interface{ Calculate(int) time.Duration }) BackoffStrategy { return d }
	_ = func(d logger) interface{ Output(int, string) error } { return d }
	_ = func(d interface{ Output(int, string) error }) logger { return d }
	_ = func(d MessageDelegate) messageMethods { return d }
	_ = func(d messageMethods) MessageDelegate { return d }
	_ = func(d ConnDelegate) connMethods { return d }
	_ = func(d connMethods) ConnDelegate { return d }
)

type messageMethods interface {
	OnFinish(*Message)
	OnRequeue(*Message, time.Duration, bool)
	OnTouch(*Message)
}

type connMethods interface {
	OnResponse(*Conn, []byte)
	OnError(*Conn, []byte)
	OnMessage(*Conn, *Message)
	OnMessageFinished(*Conn, *Message)
	OnMessageRequeued(*Conn, *Message)
	OnBackoff(*Conn)
	OnContinue(*Conn)
	OnResume(*Conn)
	OnIOError(*Conn, error)
	OnHeartbeat(*Conn)
	OnClose(*Conn)
}

// TestSurfaceTexts pins the texts and values that no type says.
func TestSurfaceTexts(t *testing.T) {
	f := func(got, want any) {
		t.Helper()
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
	}
	f(VERSION, "1.1.0")
	f([]string{string(MagicV1), string(MagicV2)}, []string{"  V1", "  V2"})
	f([]int{StateInit, StateDisconnected, StateConnected, LogLevelMax, MsgIDLength}, []int{0, 1, 2, 3, 16})
	f([]int32{FrameTypeResponse, FrameTypeError, FrameTypeMessage}, []int32{0, 1, 2})
	f(LogLevelDebug.String()+LogLevelInfo.String()+LogLevelWarning.String()+LogLevelError.String(), "DBGINFWRNERR")
	f(LogLevel(9).String(), "DBG")
	f(ErrNotConnected.Error(), "not connected")
	f(ErrStopped.Error(), "stopped")
	f(ErrClosing.Error(), "closing")
	f(ErrAlreadyConnected.Error(), "already connected")
	f(ErrOverMaxInFlight.Error(), "over configure max-inflight")
	f(ErrIdentify{"why"}.Error(), "failed to IDENTIFY - why")
	f(ErrProtocol{"E_BAD_TOPIC"}.Error(), "E_BAD_TOPIC")
}
