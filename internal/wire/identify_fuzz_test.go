package wire_test

import (
	"encoding/binary"
	"encoding/json"
	"testing"
	"time"

	"github.com/zsqio/zsq/internal/wire"
)

// FuzzIdentify gives ParseIdentify any body. What it accepts lies within the
// limits, and its answer is one frame of JSON or of OK.
func FuzzIdentify(f *testing.F) {
	for _, s := range []string{
		`{}`, `null`, `[]`, ``, `{"feature_negotiation":true}`, `{"heartbeat_interval":-1,"output_buffer_size":-1}`,
		`{"feature_negotiation":true,"tls_v1":true,"snappy":true}`, `{"feature_negotiation":true,"snappy":true,"deflate":true}`,
		`{"feature_negotiation":true,"deflate":true,"deflate_level":99,"sample_rate":99,"msg_timeout":1000}`,
		`{"CLIENT_ID":"\ud800","hostname":"` + "\xff" + `","user_agent":null,"topology_zone":"z"}`,
		`{"heartbeat_interval":9223372036854775807,"output_buffer_timeout":-9223372036854775808}`, `{"a":{"b":[[[[]]]]}}`,
	} {
		f.Add([]byte(s))
	}
	lim := wire.IdentifyLimits{
		MaxHeartbeatInterval: time.Minute, MaxOutputBufferSize: 65536, MinOutputBufferTimeout: 25 * time.Millisecond,
		MaxOutputBufferTimeout: 30 * time.Second, MaxMsgTimeout: 15 * time.Minute, MaxDeflateLevel: 6, MaxRdyCount: 2500,
		HeartbeatInterval: 30 * time.Second, OutputBufferSize: 16384, OutputBufferTimeout: 250 * time.Millisecond, MsgTimeout: time.Minute,
		TLS: true, Snappy: true, Deflate: true, Version: "1.3.0",
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		id, werr := wire.ParseIdentify(body, &lim)
		if werr != nil {
			if !werr.Fatal || werr.Code != "E_BAD_BODY" && werr.Code != "E_IDENTIFY_FAILED" {
				t.Fatalf("%q: %v", body, werr)
			}
			return
		}
		within := func(what string, v, least, most time.Duration, off bool) {
			if (v < least || v > most) && (v != 0 || !off) {
				t.Errorf("%q: %s of %v", body, what, v)
			}
		}
		within("heartbeat interval", id.HeartbeatInterval, time.Second, lim.MaxHeartbeatInterval, true)
		within("output buffer timeout", id.OutputBufferTimeout, lim.MinOutputBufferTimeout, lim.MaxOutputBufferTimeout, true)
		within("message timeout", id.MsgTimeout, time.Second, lim.MaxMsgTimeout, false)
		if id.OutputBufferSize < 1 || id.OutputBufferSize > lim.MaxOutputBufferSize || id.SampleRate < 0 || id.SampleRate > 99 ||
			id.DeflateLevel < 1 || id.DeflateLevel > lim.MaxDeflateLevel {
			t.Errorf("%q: accepted as %+v", body, id)
		}
		if granted := id.TLS || id.Snappy || id.Deflate; granted && !id.Negotiate || id.Snappy && id.Deflate {
			t.Errorf("%q: granted %+v", body, id)
		}
		frame := wire.AppendIdentifyResponse(nil, &id, &lim)
		text := frame[wire.FrameHeaderSize:]
		if int(binary.BigEndian.Uint32(frame)) != len(frame)-4 || id.Negotiate != json.Valid(text) || !id.Negotiate && string(text) != "OK" {
			t.Errorf("%q: answered %q", body, frame)
		}
	})
}
