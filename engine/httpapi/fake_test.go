package httpapi_test

import (
	"bytes"
	"errors"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zsqio/zsq/engine/httpapi"
)

// patience bounds every wait. Nothing comes near it unless something hangs, not even
// on a machine that stands still for a minute.
const patience = 2 * time.Minute

// fakeBroker is a broker without messages: names, paused flags and counts.
type fakeBroker struct {
	mu        sync.Mutex
	topics    map[string]*fakeTopic
	published [][]byte
	deferBy   time.Duration
	fail      error // what Publish, CreateTopic and the topic operations answer
	health    error
	panics    any
	stats     *httpapi.Stats // overrides what the names would give
}

type fakeTopic struct {
	channels   map[string]bool // paused
	paused     bool
	durability string
	count      uint64
	bytes      uint64
	depth      int64
}

func (b *fakeBroker) Publish(topic string, bodies [][]byte, deferBy time.Duration) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.panics != nil {
		panic(b.panics)
	}
	if b.fail != nil {
		return b.fail
	}
	t := b.topics[topic]
	for _, body := range bodies {
		b.published = append(b.published, bytes.Clone(body))
		t.count++
		t.depth++
		t.bytes += uint64(len(body))
	}
	b.deferBy = deferBy
	return nil
}

func (b *fakeBroker) CreateTopic(name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.topics[name] == nil {
		b.topics[name] = &fakeTopic{channels: map[string]bool{}}
	}
	return nil
}

func (b *fakeBroker) HasTopic(name string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.topics[name] != nil
}

// onTopic runs f on a topic under the lock.
func (b *fakeBroker) onTopic(name string, f func(*fakeTopic) error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		return b.fail
	}
	t := b.topics[name]
	if t == nil {
		return httpapi.ErrTopicNotFound
	}
	return f(t)
}

func (b *fakeBroker) onChannel(topic, channel string, f func(*fakeTopic)) error {
	return b.onTopic(topic, func(t *fakeTopic) error {
		if _, ok := t.channels[channel]; !ok {
			return httpapi.ErrChannelNotFound
		}
		f(t)
		return nil
	})
}

func (b *fakeBroker) DeleteTopic(name string) error {
	return b.onTopic(name, func(*fakeTopic) error { delete(b.topics, name); return nil })
}

func (b *fakeBroker) EmptyTopic(name string) error {
	return b.onTopic(name, func(t *fakeTopic) error { t.depth = 0; return nil })
}

func (b *fakeBroker) SetDurability(topic, mode string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.topics[topic]
	switch {
	case mode != "disk":
		return httpapi.ErrInvalidMode
	case t == nil:
		return httpapi.ErrTopicNotFound
	case strings.HasSuffix(topic, "#ephemeral"):
		return httpapi.ErrEphemeral
	}
	t.durability = mode
	return nil
}

func (b *fakeBroker) PauseTopic(name string, paused bool) error {
	return b.onTopic(name, func(t *fakeTopic) error { t.paused = paused; return nil })
}

func (b *fakeBroker) CreateChannel(topic, channel string) error {
	return b.onTopic(topic, func(t *fakeTopic) error {
		paused := t.channels[channel] // false for a new one
		t.channels[channel] = paused
		return nil
	})
}

func (b *fakeBroker) DeleteChannel(topic, channel string) error {
	return b.onChannel(topic, channel, func(t *fakeTopic) { delete(t.channels, channel) })
}

func (b *fakeBroker) EmptyChannel(topic, channel string) error {
	return b.onChannel(topic, channel, func(*fakeTopic) {})
}

func (b *fakeBroker) PauseChannel(topic, channel string, paused bool) error {
	return b.onChannel(topic, channel, func(t *fakeTopic) { t.channels[channel] = paused })
}

func (b *fakeBroker) Stats(topic, channel string, _ bool) httpapi.Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stats != nil {
		return *b.stats
	}
	var st httpapi.Stats
	for name, t := range b.topics {
		if topic != "" && topic != name {
			continue
		}
		if _, ok := t.channels[channel]; channel != "" && !ok {
			continue
		}
		ts := httpapi.TopicStats{TopicName: name, Depth: t.depth, MessageCount: t.count, MessageBytes: t.bytes, Paused: t.paused, Durability: t.durability}
		for c, paused := range t.channels {
			if channel == "" || c == channel {
				ts.Channels = append(ts.Channels, httpapi.ChannelStats{ChannelName: c, Paused: paused})
			}
		}
		st.Topics = append(st.Topics, ts)
	}
	return st
}

func (b *fakeBroker) Health() error { return b.health }

var (
	startTime   = time.Unix(1795271790, 0)
	topicName   = regexp.MustCompile(`^[.a-zA-Z0-9_-]{1,64}(#ephemeral)?$`)
	errDiskFull = errors.New("disk full")
)

// config is an API on b as the upstream daemon of exchanges.txt was set up.
func config(t testing.TB, b *fakeBroker) httpapi.Config {
	b.topics = map[string]*fakeTopic{}
	var mu sync.Mutex
	options := map[string]any{
		"log_level":                4,
		"nsqlookupd_tcp_addresses": []string{},
		"log_prefix":               "[nsqd] ",
		"max_msg_size":             int64(100),
		"msg_timeout":              time.Minute,
		"snappy":                   true,
		"tls_required":             0,
		"tls_min_version":          769,
	}
	valid := func(name string) bool { return topicName.MatchString(name) && len(name) <= 64 }
	return httpapi.Config{
		Broker: b,
		Info: func() httpapi.Info {
			return httpapi.Info{
				Version: "1.3.0", BroadcastAddress: "b", Hostname: "HOST", HTTPPort: 14151, TCPPort: 14150,
				StartTime: startTime.Unix(), MaxHeartbeatInterval: time.Minute, MaxOutputBufferSize: 65536,
				MaxOutputBufferTimeout: 30 * time.Second, MaxDeflateLevel: 6,
			}
		},
		Limits:           httpapi.Limits{MaxMsgSize: 100, MaxBodySize: 200, MaxReqTimeout: time.Second},
		ValidTopicName:   valid,
		ValidChannelName: valid,
		Option: func(name string) (any, bool) {
			mu.Lock()
			defer mu.Unlock()
			v, ok := options[name]
			return v, ok
		},
		SetOption: func(name string, value []byte) error {
			mu.Lock()
			defer mu.Unlock()
			switch {
			case name == "log_level" && strings.EqualFold(string(value), "error"):
				options[name] = 4
				return nil
			case name == "nsqlookupd_tcp_addresses" && string(value) == "null":
				options[name] = []string(nil)
				return nil
			case name == "log_level" || name == "nsqlookupd_tcp_addresses":
				return errors.New("bad value")
			default:
				return httpapi.ErrInvalidOption
			}
		},
		StartTime:    startTime,
		Now:          func() time.Time { return startTime.Add(1500 * time.Millisecond) },
		StallTimeout: patience,
		Logf:         func(int, string, ...any) {},
	}
}
