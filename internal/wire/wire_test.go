package wire_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/zsqio/zsq/internal/wire"
)

// TestErrorTexts lists the errors that the broker makes, as clients see them.
func TestErrorTexts(t *testing.T) {
	f := func(e *wire.Error, fatal bool, want string) {
		t.Helper()
		if e.Error() != want || e.Fatal != fatal {
			t.Errorf("got %q (fatal %v), want %q (fatal %v)", e, e.Fatal, want, fatal)
		}
		if frame := wire.AppendError(nil, e); string(frame[wire.FrameHeaderSize:]) != want {
			t.Errorf("frame of %q: %q", want, frame)
		}
	}
	const id = "0123456789abcdef"
	disk := errors.New("disk full")
	f(wire.ErrBadProtocol, true, "E_BAD_PROTOCOL")
	f(wire.ErrIdentifyJSON, true, "E_BAD_BODY IDENTIFY failed to decode JSON body")
	f(wire.ErrIdentifyBothCompressions, true, "E_IDENTIFY_FAILED cannot enable both deflate and snappy compression")
	f(wire.IdentifyFailed(disk), true, "E_IDENTIFY_FAILED IDENTIFY failed disk full")
	f(wire.ErrAuthAlreadySet, true, "E_INVALID AUTH already set")
	f(wire.ErrAuthDisabled, true, "E_AUTH_DISABLED AUTH disabled")
	f(wire.ErrAuthFailed.WithCause(disk), true, "E_AUTH_FAILED AUTH failed")
	f(wire.ErrAuthNone, true, "E_UNAUTHORIZED AUTH no authorizations found")
	f(wire.AuthError(disk), true, "E_AUTH_ERROR AUTH error disk full")
	f(wire.AuthFirst(wire.OpPub), true, "E_AUTH_FIRST AUTH required before PUB")
	f(wire.Unauthorized(wire.OpPub, "t", ""), true, `E_UNAUTHORIZED AUTH failed for PUB on "t" ""`)
	f(wire.ErrSubNoHeartbeats, true, "E_INVALID cannot SUB with heartbeats disabled")
	f(wire.SubFailed(wire.ReasonExiting), true, "E_SUB_FAILED SUB failed exiting")
	f(wire.TooManyConsumers("t", "c", 2), true, "E_SUB_FAILED SUB failed consumers for t:c exceeds limit of 2")
	f(wire.ErrSubDeleted, true, "E_SUB_FAILED SUB failed to deleted topic/channel")
	f(wire.WrongState(wire.OpFin), true, "E_INVALID cannot FIN in current state")
	f(wire.TLSRequired([]byte("foo")), true, "E_INVALID cannot foo in current state (TLS required)")
	f(wire.PublishFailed(wire.OpPub, disk), true, "E_PUB_FAILED PUB failed disk full")
	f(wire.PublishFailed(wire.OpMpub, disk), true, "E_MPUB_FAILED MPUB failed disk full")
	f(wire.PublishFailed(wire.OpDpub, disk), true, "E_DPUB_FAILED DPUB failed disk full")
	f(wire.NoMemory(wire.OpPub, disk), true, "E_PUB_FAILED PUB failed disk full")
	f(wire.NoMemory(wire.OpMpub, disk), true, "E_MPUB_FAILED MPUB failed disk full")
	f(wire.NoMemory(wire.OpDpub, disk), true, "E_DPUB_FAILED DPUB failed disk full")
	f(wire.NoMemory(wire.OpIdentify, disk), true, "E_IDENTIFY_FAILED IDENTIFY failed disk full")
	f(wire.NoMemory(wire.OpAuth, disk), true, "E_AUTH_ERROR AUTH error disk full")
	f(wire.NoMemory(wire.OpSub, disk), true, "E_SUB_FAILED SUB failed disk full")
	f(wire.NoMemory(wire.OpUnknown, disk), true, "E_INVALID disk full")
	f(wire.FinFailed([]byte(id), wire.ReasonNotInFlight), false, "E_FIN_FAILED FIN 0123456789abcdef failed ID not in flight")
	f(wire.ReqFailed([]byte(id), wire.ReasonAlreadyDeferred), false, "E_REQ_FAILED REQ 0123456789abcdef failed ID already deferred")
	f(wire.TouchFailed([]byte(id), wire.ReasonNotOwner), false, "E_TOUCH_FAILED TOUCH 0123456789abcdef failed client does not own message")

	if wire.ErrAuthFailed.Cause != nil || !errors.Is(wire.ErrAuthFailed.WithCause(io.EOF), io.EOF) {
		t.Error("WithCause must change a copy, and Unwrap give the cause")
	}
}

// TestFrames holds frames to the golden bytes of the contract.
func TestFrames(t *testing.T) {
	f := func(frame, want string) {
		t.Helper()
		if got := hex.EncodeToString([]byte(frame)); got != strings.ReplaceAll(want, " ", "") {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	f(wire.OKFrame, "00000006 00000000 4f4b")
	f(wire.HeartbeatFrame, "0000000f 00000000"+hex.EncodeToString([]byte("_heartbeat_")))
	f(wire.CloseWaitFrame, "0000000e 00000000"+hex.EncodeToString([]byte("CLOSE_WAIT")))
	f(string(wire.AppendError(nil, wire.ErrBadProtocol)), "00000012 00000001"+hex.EncodeToString([]byte("E_BAD_PROTOCOL")))
	f(string(wire.AppendFrame([]byte{1}, wire.FrameResponse, "OK")), "01 00000006 00000000 4f4b")
}

func TestMessageFrame(t *testing.T) {
	const id = 0x18a2d1a245269000
	frame := make([]byte, wire.MessageHeaderSize, 64)
	wire.PutMessageHeader(frame, 0x0102030405060708, 1, id, 2)
	frame = append(frame, "hi"...)
	want := "00000020" + "00000002" + "0102030405060708" + "0001" + hex.EncodeToString([]byte("18a2d1a245269000")) + "6869"
	if got := hex.EncodeToString(frame); got != want {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
	wire.PatchAttempts(frame, 0xfffe)
	got, ok := wire.FrameID(frame)
	if wire.FrameTimestamp(frame) != 0x0102030405060708 || wire.FrameAttempts(frame) != 0xfffe ||
		got != id || !ok || string(wire.FrameBody(frame)) != "hi" {
		t.Errorf("read back %x %x %x %v %q", wire.FrameTimestamp(frame), wire.FrameAttempts(frame), got, ok, wire.FrameBody(frame))
	}
}

// TestMessageID tries each byte value at each place of an id.
func TestMessageID(t *testing.T) {
	const id = 0x0123456789abcdef
	for place := range wire.MessageIDSize {
		for v := range 256 {
			b := []byte("0123456789abcdef")
			b[place] = byte(v)
			got, ok := wire.ParseMessageID(b)
			digit := strings.IndexByte("0123456789abcdef", byte(v))
			if ok != (digit >= 0) {
				t.Fatalf("%q: ok is %v", b, ok)
			}
			if !ok {
				continue
			}
			shift := 4 * (wire.MessageIDSize - 1 - place)
			if want := uint64(id)&^(0xf<<shift) | uint64(digit)<<shift; got != want {
				t.Fatalf("%q: got %x, want %x", b, got, want)
			}
			if again := wire.AppendMessageID(nil, got); string(again) != string(b) {
				t.Fatalf("%x is written %q, want %q", got, again, b)
			}
		}
	}
}

func TestNames(t *testing.T) {
	f := func(name string, valid, ephemeral bool) {
		t.Helper()
		if got := wire.ValidName(name); got != valid || wire.ValidName([]byte(name)) != valid {
			t.Errorf("ValidName(%q) = %v", name, got)
		}
		if got := wire.IsEphemeral(name); got != ephemeral {
			t.Errorf("IsEphemeral(%q) = %v", name, got)
		}
	}
	f("a", true, false)
	f("Az0.-_", true, false)
	f("", false, false)
	f(strings.Repeat("n", 64), true, false)
	f(strings.Repeat("n", 65), false, false)
	f(strings.Repeat("n", 54)+"#ephemeral", true, true)
	f(strings.Repeat("n", 55)+"#ephemeral", false, true)
	f("#ephemeral", false, true)
	f("a#ephemeral#ephemeral", false, true)
	f("a#ephemera", false, false)
	f("a\n", false, false)
	f("a b", false, false)
	for v := range 256 {
		name := string([]byte{'a', byte(v)})
		if got, want := wire.ValidName(name), validRef(name); got != want {
			t.Errorf("ValidName(%q) = %v", name, got)
		}
	}
}

func identifyLimits() *wire.IdentifyLimits {
	return &wire.IdentifyLimits{
		HeartbeatInterval: wire.DefaultHeartbeatInterval, OutputBufferSize: 16384,
		OutputBufferTimeout: 250 * time.Millisecond, MsgTimeout: time.Minute,
		MaxHeartbeatInterval: time.Minute, MaxOutputBufferSize: 65536,
		MinOutputBufferTimeout: 25 * time.Millisecond, MaxOutputBufferTimeout: 30 * time.Second,
		MaxMsgTimeout: 15 * time.Minute, MaxDeflateLevel: 6, MaxRdyCount: 2500, Version: "1.3.0",
		Snappy: true, Deflate: true,
	}
}

func TestIdentifyErrors(t *testing.T) {
	f := func(body, want string) {
		t.Helper()
		_, err := wire.ParseIdentify([]byte(body), identifyLimits())
		switch {
		case err == nil && want != "":
			t.Errorf("%s: accepted, want %q", body, want)
		case err != nil && (err.Error() != want || !err.Fatal):
			t.Errorf("%s: got %q, want %q", body, err, want)
		}
	}
	const badJSON = "E_BAD_BODY IDENTIFY failed to decode JSON body"
	for _, body := range []string{
		"null", " {} \n", `{"CLIENT_ID":"x"}`, `{"unknown":[1]}`, `{"client_id":null,"msg_timeout":null}`,
		"{\"client_id\":\"\xff\"}", `{"short_id":1,"long_id":2}`,
	} {
		f(body, "")
	}
	for _, body := range []string{
		"", "[]", "{} x", `{"client_id":1}`, `{"tls_v1":1}`, `{"msg_timeout":1000.0}`, `{"msg_timeout":1e3}`,
		`{"msg_timeout":"1000"}`, `{"sample_rate":2147483648}`,
	} {
		f(body, badJSON)
	}
	bounds := func(key, text string, good, bad []int64) {
		t.Helper()
		for _, v := range good {
			f(fmt.Sprintf(`{"%s":%d}`, key, v), "")
		}
		for _, v := range bad {
			f(fmt.Sprintf(`{"%s":%d}`, key, v), fmt.Sprintf("E_BAD_BODY IDENTIFY %s (%d) is invalid", text, v))
		}
	}
	bounds("heartbeat_interval", "heartbeat interval", []int64{-1, 0, 1000, 60000}, []int64{-2, 1, 999, 60001, 1 << 62})
	bounds("output_buffer_timeout", "output buffer timeout", []int64{-1, 0, 25, 30000}, []int64{-2, 24, 30001})
	bounds("output_buffer_size", "output buffer size", []int64{-1, 0, 64, 65536}, []int64{-2, 63, 65537})
	bounds("sample_rate", "sample rate", []int64{0, 99}, []int64{-1, 100})
	bounds("msg_timeout", "msg timeout", []int64{0, 1000, 900000}, []int64{-1, 999, 900001})
	// The order in which they are found.
	f(`{"heartbeat_interval":1,"output_buffer_timeout":1}`, "E_BAD_BODY IDENTIFY heartbeat interval (1) is invalid")
	f(`{"output_buffer_size":1,"output_buffer_timeout":1}`, "E_BAD_BODY IDENTIFY output buffer timeout (1) is invalid")
	f(`{"output_buffer_size":1,"sample_rate":100}`, "E_BAD_BODY IDENTIFY output buffer size (1) is invalid")
	f(`{"msg_timeout":1,"sample_rate":100}`, "E_BAD_BODY IDENTIFY sample rate (100) is invalid")

	f(`{"snappy":true,"deflate":true}`, "")
	f(`{"snappy":true,"deflate":true,"feature_negotiation":true}`,
		"E_IDENTIFY_FAILED cannot enable both deflate and snappy compression")
}

// TestIdentifyResponse pins keys, their order and the effective values.
func TestIdentifyResponse(t *testing.T) {
	lim := identifyLimits()
	f := func(body, want string) wire.Identify {
		t.Helper()
		id, err := wire.ParseIdentify([]byte(body), lim)
		if err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		if got := string(wire.AppendIdentifyResponse(nil, &id, lim)[wire.FrameHeaderSize:]); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", body, got, want)
		}
		return id
	}
	answer := func(msgTimeout, deflate, level, snappy, sample, size, timeout any) string {
		return fmt.Sprintf(`{"max_rdy_count":2500,"version":"1.3.0","max_msg_timeout":900000,"msg_timeout":%v,`+
			`"tls_v1":false,"deflate":%v,"deflate_level":%v,"max_deflate_level":6,"snappy":%v,"sample_rate":%v,`+
			`"auth_required":false,"output_buffer_size":%v,"output_buffer_timeout":%v}`,
			msgTimeout, deflate, level, snappy, sample, size, timeout)
	}
	f(`{"snappy":true,"msg_timeout":1000}`, "OK")
	id := f(`{"feature_negotiation":true}`, answer(60000, false, 6, false, 0, 16384, 250))
	if id.HeartbeatInterval != 30*time.Second {
		t.Errorf("heartbeat %v by default", id.HeartbeatInterval)
	}
	id = f(`{"feature_negotiation":true,"output_buffer_size":-1,"output_buffer_timeout":100,"heartbeat_interval":-1}`,
		answer(60000, false, 6, false, 0, 1, 0))
	if id.HeartbeatInterval != 0 {
		t.Errorf("heartbeat %v after -1", id.HeartbeatInterval)
	}
	f(`{"feature_negotiation":true,"output_buffer_timeout":-1,"sample_rate":5,"tls_v1":true}`, answer(60000, false, 6, false, 5, 16384, 0))
	f(`{"feature_negotiation":true,"deflate":true,"deflate_level":3,"msg_timeout":2000}`, answer(2000, true, 3, false, 0, 16384, 250))
	f(`{"feature_negotiation":true,"deflate":true,"deflate_level":9}`, answer(60000, true, 6, false, 0, 16384, 250))
	f(`{"feature_negotiation":true,"deflate":true,"deflate_level":-1}`, answer(60000, true, 6, false, 0, 16384, 250))
	f(`{"feature_negotiation":true,"snappy":true,"deflate_level":3}`, answer(60000, false, 6, true, 0, 16384, 250))

	lim.TopologyZone, lim.Deflate, lim.TLS = "z", false, true
	id = f(`{"feature_negotiation":true,"snappy":true,"deflate":true}`,
		strings.TrimSuffix(answer(60000, false, 6, true, 0, 16384, 250), "}")+`,"topology_zone":"z"}`)
	if id.TLS || !id.Snappy || id.Deflate {
		t.Errorf("granted TLS %v, snappy %v, deflate %v", id.TLS, id.Snappy, id.Deflate)
	}
}

func TestAuthResponse(t *testing.T) {
	got := wire.AppendAuthResponse(nil, wire.AuthResponse{Identity: "<a>", PermissionCount: 2})
	const want = `{"identity":"\u003ca\u003e","identity_url":"","permission_count":2}`
	if string(got[wire.FrameHeaderSize:]) != want {
		t.Errorf("got %s, want %s", got[wire.FrameHeaderSize:], want)
	}
}
