package wire

import "time"

// Magic is what a client sends first: protocol version 2.
const Magic = "  V2"

// LineSizeMax is the longest command line in bytes, LF included. A longer one
// closes the connection without an error frame.
const LineSizeMax = 16384

// Op is the kind of a command.
type Op uint8

// The commands of the protocol. OpUnknown is every other name.
const (
	OpUnknown Op = iota
	OpIdentify
	OpAuth
	OpSub
	OpPub
	OpMpub
	OpDpub
	OpRdy
	OpFin
	OpReq
	OpTouch
	OpCls
	OpNop
)

var opNames = [...]string{
	OpUnknown: "unknown", OpIdentify: "IDENTIFY", OpAuth: "AUTH", OpSub: "SUB",
	OpPub: "PUB", OpMpub: "MPUB", OpDpub: "DPUB", OpRdy: "RDY", OpFin: "FIN",
	OpReq: "REQ", OpTouch: "TOUCH", OpCls: "CLS", OpNop: "NOP",
}

// String returns the command's name as it stands on the wire.
func (op Op) String() string { return opNames[op] }

// HasBody reports whether a sized body follows the command line.
func (op Op) HasBody() bool {
	switch op {
	case OpIdentify, OpAuth, OpPub, OpMpub, OpDpub:
		return true
	}
	return false
}

// opOf finds the command of a name; names are upper case only.
func opOf(name []byte) Op {
	switch string(name) {
	case "PUB":
		return OpPub
	case "MPUB":
		return OpMpub
	case "DPUB":
		return OpDpub
	case "FIN":
		return OpFin
	case "REQ":
		return OpReq
	case "TOUCH":
		return OpTouch
	case "RDY":
		return OpRdy
	case "NOP":
		return OpNop
	case "SUB":
		return OpSub
	case "CLS":
		return OpCls
	case "IDENTIFY":
		return OpIdentify
	case "AUTH":
		return OpAuth
	}
	return OpUnknown
}

// Status says how far a parse got.
type Status uint8

const (
	// NeedMore says that the bytes end inside the command.
	NeedMore Status = iota
	// OK says that the part is complete, or refused if there is an error too.
	OK
	// LineTooLong says that no line ends within LineSizeMax bytes. The
	// connection is closed without an error frame.
	LineTooLong
)

// Limits are the options of the daemon that commands are checked against.
type Limits struct {
	MaxMsgSize    int64         // bytes of one message body
	MaxBodySize   int64         // bytes of an IDENTIFY, AUTH or MPUB body
	MaxRdyCount   int64         // highest ready count
	MaxReqTimeout time.Duration // longest delay of REQ (clamped) and DPUB (refused)
}

// Command is one command of a client, taken apart. All its slices alias the
// bytes given to the parser and are valid as long as those are. ParseLine
// sets the first group, CheckParams the second, ParseBody the third; a field
// that the op's comment does not name keeps what an earlier command left.
type Command struct {
	Op     Op
	plain  bool   // the line was "PUB name\n" or "FIN id\n" and Params is checked already
	IDOK   bool   // FIN REQ TOUCH: IDText is one of our ids, and ID its number
	Name   []byte // as sent; needed for OpUnknown and for TLSRequired
	Params []byte // all after the space that ends Name, CR and LF removed

	// NParams is 0, 1 or 2; 2 stands for two or more.
	NParams int

	Topic   []byte        // SUB PUB MPUB DPUB
	Channel []byte        // SUB
	IDText  []byte        // FIN REQ TOUCH: MessageIDSize bytes as sent
	ID      uint64        // FIN REQ TOUCH: valid if IDOK
	Count   int64         // RDY: the ready count
	Delay   time.Duration // REQ: clamped to 0..MaxReqTimeout; DPUB: in that range

	Body []byte // IDENTIFY AUTH PUB DPUB: the body; MPUB: see Messages

	// Need is how many bytes from the start of ParseBody's b are known to be
	// needed. It is set together with NeedMore.
	Need       int
	stalled    *Error // see Stalled; nil for a batch
	batchSoFar []byte // the bytes of an MPUB that is not complete

	// Resume is how far ParseBody got in an MPUB that was not complete. A
	// caller that parses the line again for each read puts the saved state
	// back before ParseBody, so that no message is looked at twice.
	Resume BatchState
}

// Stalled returns what the client is told if the rest of its command never
// comes. It may be called after ParseBody said NeedMore, while its bytes are
// valid.
func (c *Command) Stalled() *Error {
	if c.stalled != nil {
		return c.stalled
	}
	return c.Resume.stalled(c.batchSoFar)
}
