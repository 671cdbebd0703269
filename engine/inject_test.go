package engine

import "github.com/zsqio/zsq/mmapqueue"

// SetJournalFS has the daemon's journal lie on fs.
func (o *Options) SetJournalFS(fs mmapqueue.FS) { o.journalFS = fs }
