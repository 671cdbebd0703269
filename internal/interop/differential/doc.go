// Package differential sends the same bytes and the same HTTP requests to our
// broker and to upstream's nsqd v1.3.0, and compares the answers byte for byte
// after masking what cannot be equal: message ids, times, ports and paths.
//
// The scripts are testdata/*.txt, played in the short tier, and
// testdata/long/*.txt, which wait for clocks and are played with the build tag
// long. One that fails shows both answers; nobody has to write down what the
// answer should be. Every difference that we want stands in
// testdata/differences with its reason. One that is listed and no longer
// seen fails the test too.
//
// TestSameEnds, TestSameSignals, TestSameConfig and TestSameLog compare the process
// besides: exit codes and last words, signals, config files, and the lines of the log.
// TestSameAdmin compares what nsqadmin shows of the brokers, and what it does to them.
//
// # Scripts
//
// A script is played on one pair of fresh brokers, step by step on both; its first
// lines may be
//
//	flags --max-msg-size=100 ...
//	clocks
//
// The latter is for what brokers do at their own time: heartbeats are frames then, and
// each broker is played at its own pace. Without it heartbeats are skipped: a machine
// that stands still makes some.
//
// A line starting with "==" begins a case and names it. In a case {t} is a topic
// name of its own, and connections are its own. Then, one step a line:
//
//	> bytes             a connection: magic, bytes, end of stream; then all it gets
//	>> bytes            the same without the magic
//	a> bytes            the same connection for several steps, named by a letter;
//	A> bytes            an upper-case one sends no magic
//	a< 2                wait for two frames
//	a.                  wait until the broker closes it
//	a|                  end of stream, then all it still gets (implied at the end)
//	h> bytes            bytes to the HTTP port, then all until it closes
//	GET /path           a request; also POST, PUT, HEAD and the others
//	POST /path | bytes  ... with a body
//	POST /path || bytes ... with a chunked body
//	GET* /path          only the status and the headers count
//	until RE GET /path  the same request, again until its body matches and both say the same
//	restart             stop both brokers with SIGTERM, start them again
//	file NAME           what a file of the data directory holds, again until both say the same
//
// In bytes, \n, \r, \xNN and \\ are as in Go, [n] is n as four bytes, big-endian,
// {m1} the id of the first message that the case has received, {x*100} a hundred
// times x.
package differential
