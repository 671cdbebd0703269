package broker

import (
	"hash/maphash"
	"maps"
	"sync/atomic"
)

// directoryParts is how many maps share a directory's topics. At 10,000 topics
// a part has forty, so that creating one more copies forty and not all.
const directoryParts = 256

// A directory finds topics by name. Readers take no lock: a change copies the
// one small map that it is in. Changes come one at a time; the caller sees to it.
type directory struct {
	seed  maphash.Seed
	parts [directoryParts]atomic.Pointer[map[string]*Topic] // nil while empty
}

func (d *directory) init() { d.seed = maphash.MakeSeed() }

// find returns the topic of that name, or nil. It keeps no reference to name.
func (d *directory) find(name []byte) *Topic {
	p := d.parts[maphash.Bytes(d.seed, name)%directoryParts].Load()
	if p == nil {
		return nil
	}
	return (*p)[string(name)]
}

// set makes t the topic of that name, or with a nil t takes the name out.
func (d *directory) set(name string, t *Topic) {
	part := &d.parts[maphash.String(d.seed, name)%directoryParts]
	next := map[string]*Topic{}
	if p := part.Load(); p != nil {
		next = maps.Clone(*p)
	}
	if t != nil {
		next[name] = t
	} else {
		delete(next, name)
	}
	part.Store(&next)
}

// all returns every topic, in no order.
func (d *directory) all() []*Topic {
	var all []*Topic
	for i := range d.parts {
		if p := d.parts[i].Load(); p != nil {
			for _, t := range *p {
				all = append(all, t)
			}
		}
	}
	return all
}
