package lookupd

import (
	"encoding/json"
	"maps"
	"math"
	"slices"
	"time"
)

// peer is what a producer tells of itself, and the object in /lookup, in its
// order. The topology is left out where it is not set, as by upstream's 1.3.0,
// which does not know it.
type peer struct {
	RemoteAddress    string `json:"remote_address"`
	Hostname         string `json:"hostname"`
	BroadcastAddress string `json:"broadcast_address"`
	TCPPort          int    `json:"tcp_port"`
	HTTPPort         int    `json:"http_port"`
	Version          string `json:"version"`
	TopologyZone     string `json:"topology_zone,omitempty"`
	TopologyRegion   string `json:"topology_region,omitempty"`
}

// marshal renders a value that cannot fail to be JSON.
func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// appendNames appends a JSON array of names, which need no escaping: they have
// been checked, or are constants.
func appendNames(b []byte, names []string) []byte {
	b = append(b, '[')
	for i, name := range names {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = append(b, name...)
		b = append(b, '"')
	}
	return append(b, ']')
}

// A topicView is what /lookup and /channels show of a topic. It is never
// changed once it is shared.
type topicView struct {
	channels []byte   // JSON array of names
	visible  [][]byte // the JSON objects of the producers to be shown
	size     int      // bytes of all of visible
	until    int64    // before that time nothing is hidden, or shown again, by time alone
}

// A nodeView is what /nodes shows of a producer.
type nodeView struct {
	json  []byte
	until int64 // as in topicView
}

// lookup returns the view of a topic, nil if there is none of that name.
func (r *registry) lookup(name string, now time.Time) *topicView {
	r.mu.RLock()
	defer r.mu.RUnlock()
	t := r.topics[name]
	if t == nil {
		return nil
	}
	n := now.UnixNano()
	v := t.view.Load()
	if v == nil || n >= v.until {
		// Others may be at it too, but no change is: all of them build the same.
		v = r.viewTopic(t, n)
		t.view.Store(v)
	}
	return v
}

func (r *registry) viewTopic(t *topic, now int64) *topicView {
	v := &topicView{
		channels: appendNames(nil, slices.Sorted(maps.Keys(t.channels))),
		visible:  make([][]byte, 0, len(t.records)),
		until:    math.MaxInt64,
	}
	for _, rec := range t.records {
		seen, silent := r.silent(rec.producer, now)
		if silent {
			continue // a ping drops this view
		}
		if ends, ok := r.tombstoned(rec, now); ok {
			v.until = min(v.until, ends)
			continue
		}
		v.until = min(v.until, seen+r.inactiveAfter+1)
		v.visible = append(v.visible, rec.producer.json)
		v.size += len(rec.producer.json)
	}
	return v
}

// silent reports whether p is hidden for its silence, and when it was heard of.
// The caller holds the read lock and builds a view.
func (r *registry) silent(p *producer, now int64) (seen int64, silent bool) {
	if seen = p.seen.Load(); now-seen <= r.inactiveAfter {
		return seen, false
	}
	// We say that it is gone and then look whether it is; ping says that it is here
	// and then looks whether it was gone. One of us sees the other.
	p.gone.Store(true)
	seen = p.seen.Load()
	return seen, now-seen > r.inactiveAfter
}

// tombstoned reports whether a tombstone hides the record, and when it ends.
func (r *registry) tombstoned(rec *record, now int64) (ends int64, ok bool) {
	ends = rec.tombstonedAt + r.tombstoneFor
	return ends, rec.tombstonedAt != 0 && now < ends
}

// topicNames returns the JSON array of all topics.
func (r *registry) topicNames() []byte {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if b := r.names.Load(); b != nil {
		return *b
	}
	b := appendNames(nil, slices.Sorted(maps.Keys(r.topics)))
	r.names.Store(&b)
	return b
}

// nodes returns the JSON objects of the producers to be shown.
func (r *registry) nodes(now time.Time) [][]byte {
	r.mu.RLock()
	defer r.mu.RUnlock()
	n := now.UnixNano()
	list := make([][]byte, 0, len(r.producers))
	for _, p := range r.producers {
		if n-p.seen.Load() > r.inactiveAfter {
			continue
		}
		v := p.view.Load()
		if v == nil || n >= v.until {
			v = r.viewNode(p, n)
			p.view.Store(v)
		}
		list = append(list, v.json)
	}
	return list
}

// viewNode renders the object of /lookup with two more keys. The two arrays go
// together index by index: nsqadmin reads tombstones[i] for topics[i].
func (r *registry) viewNode(p *producer, now int64) *nodeView {
	v := &nodeView{until: math.MaxInt64}
	recs := make(map[string]*record, len(p.records))
	size := len(p.json) + len(`,"tombstones":[],"topics":[]`)
	for t, rec := range p.records {
		recs[t.name] = rec
		size += len(t.name) + len(`"",false,`)
	}
	names := slices.Sorted(maps.Keys(recs))

	b := make([]byte, 0, size)
	b = append(b, p.json[:len(p.json)-1]...)
	b = append(b, `,"tombstones":[`...)
	for i, name := range names {
		if i > 0 {
			b = append(b, ',')
		}
		ends, dead := r.tombstoned(recs[name], now)
		if !dead {
			b = append(b, "false"...)
			continue
		}
		b = append(b, "true"...)
		v.until = min(v.until, ends)
	}
	b = append(b, `],"topics":`...)
	b = appendNames(b, names)
	v.json = append(b, '}')
	return v
}

// debugEntry is one producer of one registration in /debug, keys in upstream's
// order.
type debugEntry struct {
	BroadcastAddress string `json:"broadcast_address"`
	Hostname         string `json:"hostname"`
	HTTPPort         int    `json:"http_port"`
	ID               string `json:"id"`
	LastUpdate       int64  `json:"last_update"` // nanoseconds since 1970
	TCPPort          int    `json:"tcp_port"`
	Tombstoned       bool   `json:"tombstoned"`
	TombstonedAt     int64  `json:"tombstoned_at"` // nanoseconds since 1970
	TopologyRegion   string `json:"topology_region,omitempty"`
	TopologyZone     string `json:"topology_zone,omitempty"`
	Version          string `json:"version"`
}

// neverTombstoned is upstream's time of a tombstone that there never was: the
// zero time in nanoseconds, wrapped around.
const neverTombstoned = -6795364578871345152

func newDebugEntry(p *producer, tombstonedAt int64) debugEntry {
	e := debugEntry{
		ID: p.id, Hostname: p.Hostname, BroadcastAddress: p.BroadcastAddress,
		TCPPort: p.TCPPort, HTTPPort: p.HTTPPort, Version: p.Version,
		TopologyZone: p.TopologyZone, TopologyRegion: p.TopologyRegion,
		LastUpdate: p.seen.Load(), TombstonedAt: neverTombstoned,
	}
	if tombstonedAt != 0 {
		e.Tombstoned, e.TombstonedAt = true, tombstonedAt
	}
	return e
}

// debugKeys lists the registrations as /debug names them, sorted by that name:
// channels, the one of all clients, topics.
func (r *registry) debugKeys() []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	keys := make([]string, 0, r.keys+1)
	keys = append(keys, "client::")
	for _, t := range r.topics {
		keys = append(keys, "topic:"+t.name+":")
		for _, ch := range t.channels {
			keys = append(keys, "channel:"+t.name+":"+ch.name)
		}
	}
	slices.Sort(keys)
	return keys
}

// debugTopic returns the entries of a topic or, if channel is not empty, of a
// channel. They may be none: the registration may have gone since debugKeys.
func (r *registry) debugTopic(topicName, channelName string) []debugEntry {
	r.mu.RLock()
	defer r.mu.RUnlock()
	t := r.topics[topicName]
	if t == nil {
		return nil
	}
	var list []debugEntry
	for _, rec := range t.records {
		if channelName == "" {
			list = append(list, newDebugEntry(rec.producer, rec.tombstonedAt))
		} else if _, ok := rec.find(channelName); ok {
			// Tombstones are set on topics only.
			list = append(list, newDebugEntry(rec.producer, 0))
		}
	}
	return list
}

// debugClients returns the entries of all producers.
func (r *registry) debugClients() []debugEntry {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var list []debugEntry
	for _, p := range r.producers {
		list = append(list, newDebugEntry(p, 0))
	}
	return list
}
