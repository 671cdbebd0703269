package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/zsqio/zsq/internal/diskqueue"
	"github.com/zsqio/zsq/internal/wire"
	"github.com/zsqio/zsq/mmapqueue"
)

// Exported counts what an export wrote.
type Exported struct {
	Topics, Queues, Messages int64
	Deferred                 int64 // of Messages: their due times could not be kept
}

// Export writes every message that the backlogs of a stopped broker hold into dir,
// as queues of files of fileBytes that upstream's nsqd reads. The data path is left as it is. Upstream
// has no due times on disk, so deferred messages become due at once there.
func Export(dataPath string, o mmapqueue.Options, dir string, fileBytes int64) (n Exported, err error) {
	root := filepath.Join(dataPath, backlogsDir)
	dirs, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return n, nil
	}
	if err != nil {
		return n, fmt.Errorf("broker: export: %w", err)
	}
	for i, d := range dirs {
		name, ok := topicOf(d)
		if !ok {
			continue
		}
		if i+1 < len(dirs) { // only the last incarnation counts, as in Open
			if next, ok := topicOf(dirs[i+1]); ok && next == name {
				continue
			}
		}
		if err := n.topic(name, filepath.Join(root, d.Name()), o, dir, fileBytes); err != nil {
			return n, fmt.Errorf("broker: export topic %s: %w", name, err)
		}
	}
	return n, nil
}

func (n *Exported) topic(name, from string, o mmapqueue.Options, dir string, fileBytes int64) (err error) {
	log, err := mmapqueue.Open(from, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	n.Topics++
	for _, channel := range log.Names() {
		c, err := log.Cursor(channel)
		if err != nil {
			return err
		}
		if c.Depth() == 0 || strings.HasSuffix(channel, ephemeralSuffix) {
			continue
		}
		if err := n.queue(c, diskqueue.NewWriter(dir, name, channel, fileBytes)); err != nil {
			return err
		}
	}
	return nil
}

// queue copies all that a cursor has to read. It finishes nothing: the log keeps it.
func (n *Exported) queue(c *mmapqueue.Cursor, w *diskqueue.Writer) error {
	const batch = 1000
	var failed error
	for c.Depth() > 0 && failed == nil {
		_, err := c.Read(batch, func(r *mmapqueue.Record) {
			if failed != nil {
				return
			}
			m := diskqueue.Message{Timestamp: r.Timestamp, Attempts: r.Attempts, Body: r.Body}
			wire.PutMessageID(m.ID[:], r.ID)
			if r.Due != 0 {
				n.Deferred++
			}
			n.Messages++
			failed = w.Put(m)
		})
		if err != nil && !errors.Is(err, mmapqueue.ErrCorrupt) {
			return errors.Join(err, w.Close())
		}
	}
	n.Queues++
	return errors.Join(failed, w.Close())
}
