// Package mmapqueue keeps messages on disk: a log of records for each topic,
// and cursors that read it.
//
// # What there is
//
// A Backlog is the log of one topic. It holds what overflowed from memory, what
// has waited there for long, and what a clean stop leaves. A message is written
// once, however many channels lag; a channel is a Cursor. What a cursor has read
// it still owes: a record is done with when it is finished, so that a message
// that was handed to a consumer and not acknowledged is read again after a crash.
//
//	dir/000000000007.seg    sealed: records, footer
//	dir/000000000008.seg    open: records, space set aside
//	dir/cursors             what each cursor is done with
//	dir/adopted             which of upstream's files belong to the log, see adopt.go
//	dir/000000000003.seg.bad   damaged, done with, kept for whoever wants to look
//	dir/000000000004.seg.spare done with, to be written again under another number
//
// Segments start at 64 KB and double to 16 MB, and to 64 MB in a log that is deep,
// or to what Options say. They are written with one pwrite a batch into space that
// fallocate has set aside, and read through a mapping. Writing through the mapping
// was measured too: it is dearer as soon as anything is synced, because write-back
// protects the pages again, and a full disk is a signal there instead of an error.
// A segment is removed when no cursor has anything unfinished in it or in front of
// it, the open one by Trim or Close. A log in which everything is finished thus
// costs no file, no descriptor and no mapping, and after a quiet while it gives back what it still has. Of others only
// those used last keep theirs, if they share bounds (see Handles). One old record
// that nobody finishes keeps every segment behind it, until Renew writes it again at
// the end.
//
// A page that was never written costs the system several times what the copy into
// it does, most of all on a virtual machine whose host must find it first. So a log
// that is read as fast as it is written turns in the same few files; and what is
// written far in front of every reader is dropped from memory once it is synced,
// so that the next pages are those of before. A reader that comes there reads the
// disk.
//
// The layouts are drawn where they are read and written: a record in record.go,
// a segment's header and footer in segment.go, the cursor file in cursor_file.go and
// window.go. All are little-endian.
//
// # What a crash may do
//
// We assume of the disk: a write that was not synced may be there, in part, in
// any order of its pages, or not at all; what was synced stays as it is, unless
// the disk fails; rename replaces a file as a whole.
//
//   - After Close: everything is there, and each cursor reads what it had not
//     finished: no record more, none less.
//   - After the process dies (kill -9, panic): every record whose Append had
//     returned is there. Each cursor reads what it had not finished when the last
//     Sync saw it; records finished since are read again. To read twice is allowed,
//     to lose is not.
//   - After power loss: the same for everything before the last Sync that
//     returned without an error. Of what came after it, any whole record may be
//     there, and torn ones are passed over. Without Options.PowerSafe the cursors
//     may be those of a save before.
//   - Of a batch whose Append did not return, or returned an error that the disk
//     did not let us clean up after, a start may find whole records.
//   - Nothing is invented. Every record has an xxhash64, mixed with a random
//     salt of its segment and, but for the journal, with its offset, so that a
//     body made of log bytes, a stale block or a file under another name never
//     reads as a record.
//   - A damaged record costs that record: readers find the next one, count the
//     place and what is lost, and log file and offset; so does a start for an end
//     that is cut off and for a file that is missing (damage.go). A file that was cut or removed, or whose disk
//     fails, is a CorruptError of Read, never the end of the process; records
//     behind it are read.
//   - After a failed write or sync the segment takes no more records, and nothing
//     is claimed on its strength.
//
// A start reads the cursor file, the header and footer of sealed segments, and
// scans only what has no footer: what was open when the process died.
//
// # The store interface
//
// What the broker asks of a store, and all it asks (it declares the interface on
// its side, with a memory one for ephemeral topics):
//
//	Append(recs []Record) error                    the topic's writer
//	Cursor(name string) (*Cursor, error)           a channel is born
//	Cursor.Read(max int, f func(*Record)) (int, error)   the channel's refiller
//	Cursor.Finish(sequences []uint64)              any goroutine that may touch files
//	Cursor.FinishAgain(sequences []uint64) error   at a start: what somebody else knows
//	Cursor.Pinned() uint64, Renew() (int, error)   now and then: do a few old records keep much?
//	Cursor.Depth() int64                           any goroutine
//	Cursor.Corrected() int64                       behind a Read: by how much it was wrong
//	Cursor.Empty, Rename, Delete                   operations on a channel
//	Adopt(queues []diskqueue.Queue) error          at a start: upstream's files
//	Sync, Trim, Close, Remove
//
// Depth is exact whenever no call is under way: publish records behind the
// cursor plus puts of its own. At a start that goes for damage too in what has no
// seal; records that a seal counts, and that are damaged or were lost with the power,
// are known to be so when a Read comes there. Until then Depth is too high by them,
// never too low, and Corrected says by how much. The first channel takes over the topic's messages
// by renaming the topic's cursor, which is named "". None of these may be called
// by an event loop, Depth excepted: they touch files.
//
// # The journal
//
// A Journal is one log for all topics of a daemon: the messages that are in memory,
// and what becomes of them; and news of the topics themselves, which are born, pause
// and die. Topics share it because a log of each topic's own, written
// every round, would cost a system call and a sync per topic and round.
//
//	dir/000001.journal    64 MB, or less while little is in memory, used again and again under new numbers
//
// Records are those of a backlog with more kinds (journal_batch.go). Whoever
// submits a batch is told when it is written, and is on the disk if it asks for that
// (JournalBatch.Sync); what was submitted meanwhile is one write, and one sync if one
// of them asks.
//
//	Submit(batch, done)   does not wait; an event loop may call it
//	Later(batch)          the same for what nobody waits for: no wake-up of its own
//	Segment() uint64      what to mark new messages with
//	Release(segment)      nothing older is needed
//	Replay()              what lives, before Start
//
// A journal does not know which messages live while it runs. Its user says from
// which segment on there may be some; older files are kept as spares or removed,
// oldest first, so that a finish never goes before its message. After a crash,
// Replay applies the records in order and finds out. What a crash may do is what it
// may do to a backlog:
//
//   - After the process dies every batch whose done was called without an error is
//     there, and of the last ones any beginning.
//   - After power loss the same of batches that asked for Sync, and of the rest any whole
//     record. A user who moves a message from one log to another therefore waits
//     for the new place before it gives up the old one.
//   - A batch that failed is refused as far as its messages go, though a start may
//     find some. Its other records are written again, before anything else, when the
//     disk works.
//   - A damaged record costs itself: a message, or a finish, whose messages come
//     again. It is counted and logged, and so is a segment that is missing or shorter
//     than the next one says; of the last one nobody can say where it ended. Headers and the definitions of queues stand twice.
//
// Sequences of a backlog begin again at 1 when it has been empty across a stop. A
// journal therefore notes each start, and what it says of backlogs before the last
// one is done with.
package mmapqueue
