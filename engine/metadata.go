package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zsqio/zsq/engine/broker"
	"github.com/zsqio/zsq/internal/wire"
	"github.com/zsqio/zsq/mmapqueue"
)

// metadata keeps nsqd.dat: the topics and channels, and which are paused. The broker's
// journal has what became of them since it was written.
type metadata struct {
	path string
	e    *Engine
	dirt chan struct{} // holds at most one
	done chan struct{}
	wg   sync.WaitGroup
	mu   sync.Mutex // one write at a time
}

// A change is written at once, for until then the journal keeps what tells of it.
// Behind a write there is a pause that keeps the writing to a twentieth of the time,
// however many topics there are.
const (
	metadataPauseMin = 20 * time.Millisecond
	metadataPauseMax = time.Second
	metadataShare    = 20
)

type metaFile struct {
	Topics  []metaTopic `json:"topics"`
	Version string      `json:"version"`
}

type metaTopic struct {
	Name     string        `json:"name"`
	Paused   bool          `json:"paused"`
	Channels []metaChannel `json:"channels"`
}

type metaChannel struct {
	Name   string `json:"name"`
	Paused bool   `json:"paused"`
}

func newMetadata(path string, e *Engine) *metadata {
	return &metadata{path: path, e: e, dirt: make(chan struct{}, 1), done: make(chan struct{})}
}

// changed asks for a write soon. It does not block.
func (m *metadata) changed(ephemeral bool) {
	if ephemeral {
		return
	}
	select {
	case m.dirt <- struct{}{}:
	default:
	}
}

// start runs the goroutine that writes; stop ends it.
func (m *metadata) start() {
	m.wg.Go(func() {
		failing := false
		for {
			select {
			case <-m.done:
				return
			case <-m.dirt:
			}
			began := time.Now()
			err := m.write()
			pause := (metadataShare - 1) * time.Since(began)
			if err != nil {
				if !failing { // once, and not each second while the disk is full
					m.e.log.printf(LogError, "failed to persist metadata - %s", err)
				}
				pause = metadataPauseMax
				m.changed(false) // it is tried again
			}
			failing = err != nil
			select {
			case <-m.done:
				return
			case <-time.After(min(max(pause, metadataPauseMin), metadataPauseMax)):
			}
		}
	})
}

func (m *metadata) stop() {
	close(m.done)
	m.wg.Wait()
}

// write replaces the file by what is now.
func (m *metadata) write() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	mark := m.e.broker.NewsMark()
	file := metaFile{Version: Version}
	for _, t := range m.e.broker.Topics() {
		if wire.IsEphemeral(t.Name()) || t.Exiting() {
			continue
		}
		mt := metaTopic{Name: t.Name(), Paused: t.Paused()}
		for _, c := range t.Channels() {
			if !wire.IsEphemeral(c.Name()) {
				mt.Channels = append(mt.Channels, metaChannel{c.Name(), c.Paused()})
			}
		}
		file.Topics = append(file.Topics, mt)
	}
	b, err := json.Marshal(file)
	if err != nil {
		return err
	}
	if err := mmapqueue.ReplaceFile(mmapqueue.OS, m.path, b); err != nil {
		return err
	}
	m.e.broker.NewsSaved(mark)
	return nil
}

// load brings the topics and channels of the file back. A missing file is a
// fresh start. One that cannot be read or understood is kept under another name: topics
// and channels with messages are found from their backlogs.
func (m *metadata) load(b *broker.Broker) error {
	raw, err := os.ReadFile(m.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var file metaFile
	if err == nil {
		err = json.Unmarshal(raw, &file)
	}
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
		return fmt.Errorf("failed to load metadata - %w", err)
	}
	if err != nil {
		m.e.log.printf(LogError, "failed to read metadata in %s, kept as %s.bad - %s", m.path, m.path, err)
		if err := os.Rename(m.path, m.path+".bad"); err != nil {
			return fmt.Errorf("failed to load metadata - %w", err)
		}
		return nil
	}
	for _, t := range file.Topics {
		if !wire.ValidName(t.Name) {
			m.e.log.printf(LogWarn, "skipping creation of invalid topic %s", t.Name)
			continue
		}
		channels := map[string]bool{}
		for _, c := range t.Channels {
			if !wire.ValidName(c.Name) {
				m.e.log.printf(LogWarn, "skipping creation of invalid channel %s", c.Name)
				continue
			}
			channels[c.Name] = c.Paused
		}
		if err := b.Restore(t.Name, t.Paused, channels); err != nil {
			return fmt.Errorf("failed to load metadata - %w", err)
		}
	}
	return nil
}
