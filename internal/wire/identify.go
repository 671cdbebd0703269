package wire

import (
	"encoding/json"
	"time"
)

// settingMin is the shortest heartbeat interval and message timeout that a
// client may ask for.
const settingMin = time.Second

// outputBufferSizeMin is the smallest output buffer that a client may ask for,
// besides none at all.
const outputBufferSizeMin = 64

// deflateLevelDefault is used if the client names no level.
const deflateLevelDefault = 6

// DefaultHeartbeatInterval is what a client gets that asks for nothing; nsqd
// has no flag for it.
const DefaultHeartbeatInterval = 30 * time.Second

// IdentifyLimits are the options of the daemon that an IDENTIFY is checked
// against and answered from.
type IdentifyLimits struct {
	// What a client gets by leaving a setting out or sending 0. For a second
	// IDENTIFY these are the values that the first one left.
	HeartbeatInterval   time.Duration
	OutputBufferSize    int
	OutputBufferTimeout time.Duration
	MsgTimeout          time.Duration

	MaxHeartbeatInterval   time.Duration
	MaxOutputBufferSize    int
	MinOutputBufferTimeout time.Duration
	MaxOutputBufferTimeout time.Duration
	MaxMsgTimeout          time.Duration
	MaxDeflateLevel        int
	MaxRdyCount            int64

	TLS     bool // a certificate is configured
	Snappy  bool
	Deflate bool

	Version        string
	AuthRequired   bool
	TopologyRegion string // the daemon's own
	TopologyZone   string
}

// Identify is what an IDENTIFY comes to: what the client said of itself and
// its settings in effect.
type Identify struct {
	ClientID       string
	Hostname       string
	UserAgent      string
	TopologyRegion string
	TopologyZone   string

	Negotiate bool // answer with JSON; otherwise with OK, and grant nothing

	HeartbeatInterval   time.Duration // 0: no heartbeats
	OutputBufferSize    int           // 1: unbuffered
	OutputBufferTimeout time.Duration // 0: no timed flush
	MsgTimeout          time.Duration
	SampleRate          int32 // percent; 0: all messages

	// Granted, and therefore to be started after the response.
	TLS          bool
	Snappy       bool
	Deflate      bool
	DeflateLevel int
}

// identifyRequest is the JSON object as clients send it. Its types decide
// which bodies fail to decode.
type identifyRequest struct {
	ClientID            string `json:"client_id"`
	Hostname            string `json:"hostname"`
	UserAgent           string `json:"user_agent"`
	FeatureNegotiation  bool   `json:"feature_negotiation"`
	HeartbeatInterval   int    `json:"heartbeat_interval"`
	OutputBufferSize    int    `json:"output_buffer_size"`
	OutputBufferTimeout int    `json:"output_buffer_timeout"`
	TLSv1               bool   `json:"tls_v1"`
	Snappy              bool   `json:"snappy"`
	Deflate             bool   `json:"deflate"`
	DeflateLevel        int    `json:"deflate_level"`
	SampleRate          int32  `json:"sample_rate"`
	MsgTimeout          int    `json:"msg_timeout"`
	TopologyRegion      string `json:"topology_region"`
	TopologyZone        string `json:"topology_zone"`
}

// ParseIdentify decodes and checks the body of an IDENTIFY in the order in
// which nsqd does. Its strings do not alias body. Its errors are all fatal.
func ParseIdentify(body []byte, lim *IdentifyLimits) (Identify, *Error) {
	var req identifyRequest
	if err := json.Unmarshal(body, &req); err != nil {
		return Identify{}, ErrIdentifyJSON.WithCause(err)
	}
	id := Identify{
		ClientID:       req.ClientID,
		Hostname:       req.Hostname,
		UserAgent:      req.UserAgent,
		TopologyRegion: req.TopologyRegion,
		TopologyZone:   req.TopologyZone,
		Negotiate:      req.FeatureNegotiation,
	}
	if err := id.resolveSettings(&req, lim); err != nil {
		return Identify{}, err
	}
	if err := id.grant(&req, lim); err != nil {
		return Identify{}, err
	}
	return id, nil
}

// resolveSettings fills the settings that apply even without negotiation.
// The client's numbers mean: 0 keep, -1 off where that is allowed.
func (id *Identify) resolveSettings(req *identifyRequest, lim *IdentifyLimits) *Error {
	var ok bool
	id.HeartbeatInterval, ok = resolveMs(req.HeartbeatInterval, lim.HeartbeatInterval, settingMin, lim.MaxHeartbeatInterval)
	if req.HeartbeatInterval == -1 {
		id.HeartbeatInterval, ok = 0, true
	}
	if !ok {
		return fatalf(codeBadBody, "IDENTIFY heartbeat interval (%d) is invalid", req.HeartbeatInterval)
	}

	id.OutputBufferTimeout, ok = resolveMs(req.OutputBufferTimeout, lim.OutputBufferTimeout, lim.MinOutputBufferTimeout, lim.MaxOutputBufferTimeout)
	if req.OutputBufferTimeout == -1 {
		id.OutputBufferTimeout, ok = 0, true
	}
	if !ok {
		return fatalf(codeBadBody, "IDENTIFY output buffer timeout (%d) is invalid", req.OutputBufferTimeout)
	}

	switch size := req.OutputBufferSize; {
	case size == -1:
		id.OutputBufferSize, id.OutputBufferTimeout = 1, 0
	case size == 0:
		id.OutputBufferSize = lim.OutputBufferSize
	case size >= outputBufferSizeMin && size <= lim.MaxOutputBufferSize:
		id.OutputBufferSize = size
	default:
		return fatalf(codeBadBody, "IDENTIFY output buffer size (%d) is invalid", size)
	}

	if req.SampleRate < 0 || req.SampleRate > 99 {
		return fatalf(codeBadBody, "IDENTIFY sample rate (%d) is invalid", req.SampleRate)
	}
	id.SampleRate = req.SampleRate

	id.MsgTimeout, ok = resolveMs(req.MsgTimeout, lim.MsgTimeout, settingMin, lim.MaxMsgTimeout)
	if !ok {
		return fatalf(codeBadBody, "IDENTIFY msg timeout (%d) is invalid", req.MsgTimeout)
	}
	return nil
}

// resolveMs returns keep for 0 and else ms as a duration, if it lies between
// the limits. They are compared in milliseconds, so that nothing wraps.
func resolveMs(ms int, keep, least, most time.Duration) (time.Duration, bool) {
	if ms == 0 {
		return keep, true
	}
	if int64(ms) < least.Milliseconds() || int64(ms) > most.Milliseconds() {
		return 0, false
	}
	return time.Duration(ms) * time.Millisecond, true
}

// grant decides on TLS and compression.
func (id *Identify) grant(req *identifyRequest, lim *IdentifyLimits) *Error {
	id.DeflateLevel = min(deflateLevelDefault, lim.MaxDeflateLevel)
	if !id.Negotiate {
		return nil
	}
	id.TLS = lim.TLS && req.TLSv1
	id.Snappy = lim.Snappy && req.Snappy
	id.Deflate = lim.Deflate && req.Deflate
	if id.Deflate && req.DeflateLevel > 0 {
		id.DeflateLevel = min(req.DeflateLevel, lim.MaxDeflateLevel)
	}
	if id.Snappy && id.Deflate {
		return ErrIdentifyBothCompressions
	}
	return nil
}

// IdentifyResponse is the answer to a negotiating IDENTIFY. The order of the
// keys is nsqd's. Times are in milliseconds. The topology keys are left out
// when empty, as in v1.3.0, which does not know them.
type IdentifyResponse struct {
	MaxRdyCount         int64  `json:"max_rdy_count"`
	Version             string `json:"version"`
	MaxMsgTimeout       int64  `json:"max_msg_timeout"`
	MsgTimeout          int64  `json:"msg_timeout"`
	TLSv1               bool   `json:"tls_v1"`
	Deflate             bool   `json:"deflate"`
	DeflateLevel        int    `json:"deflate_level"`
	MaxDeflateLevel     int    `json:"max_deflate_level"`
	Snappy              bool   `json:"snappy"`
	SampleRate          int32  `json:"sample_rate"`
	AuthRequired        bool   `json:"auth_required"`
	OutputBufferSize    int    `json:"output_buffer_size"`
	OutputBufferTimeout int64  `json:"output_buffer_timeout"`
	TopologyRegion      string `json:"topology_region,omitempty"`
	TopologyZone        string `json:"topology_zone,omitempty"`
}

// Response returns the answer to a negotiating IDENTIFY.
func (id *Identify) Response(lim *IdentifyLimits) IdentifyResponse {
	return IdentifyResponse{
		MaxRdyCount:         lim.MaxRdyCount,
		Version:             lim.Version,
		MaxMsgTimeout:       lim.MaxMsgTimeout.Milliseconds(),
		MsgTimeout:          id.MsgTimeout.Milliseconds(),
		TLSv1:               id.TLS,
		Deflate:             id.Deflate,
		DeflateLevel:        id.DeflateLevel,
		MaxDeflateLevel:     lim.MaxDeflateLevel,
		Snappy:              id.Snappy,
		SampleRate:          id.SampleRate,
		AuthRequired:        lim.AuthRequired,
		OutputBufferSize:    id.OutputBufferSize,
		OutputBufferTimeout: id.OutputBufferTimeout.Milliseconds(),
		TopologyRegion:      lim.TopologyRegion,
		TopologyZone:        lim.TopologyZone,
	}
}

// AppendIdentifyResponse appends the frame that answers an IDENTIFY: JSON if
// the client negotiates, OK otherwise.
func AppendIdentifyResponse(dst []byte, id *Identify, lim *IdentifyLimits) []byte {
	if !id.Negotiate {
		return append(dst, OKFrame...)
	}
	return appendJSON(dst, id.Response(lim))
}

// AuthResponse is the answer to a successful AUTH.
type AuthResponse struct {
	Identity        string `json:"identity"`
	IdentityURL     string `json:"identity_url"`
	PermissionCount int    `json:"permission_count"`
}

// AppendAuthResponse appends the frame that answers a successful AUTH.
func AppendAuthResponse(dst []byte, r AuthResponse) []byte { return appendJSON(dst, r) }

// appendJSON appends a response frame of v, which must be a struct of plain
// fields: those cannot fail to encode.
func appendJSON(dst []byte, v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return AppendFrame(dst, FrameResponse, text)
}
