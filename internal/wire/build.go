package wire

import (
	"encoding/binary"
	"strconv"
	"time"
)

// The functions of this file append a command as a client writes it. They
// check nothing, so that tests can send what the server must refuse.

// AppendIdentify appends IDENTIFY with a JSON object.
func AppendIdentify(dst, json []byte) []byte {
	return appendSized(append(dst, "IDENTIFY\n"...), json)
}

// AppendAuth appends AUTH with a secret.
func AppendAuth(dst, secret []byte) []byte {
	return appendSized(append(dst, "AUTH\n"...), secret)
}

// AppendSub appends SUB.
func AppendSub(dst []byte, topic, channel string) []byte {
	return appendLine(dst, "SUB ", topic, " ", channel)
}

// AppendPub appends PUB with a message body.
func AppendPub(dst []byte, topic string, body []byte) []byte {
	return appendSized(appendLine(dst, "PUB ", topic), body)
}

// AppendDpub appends DPUB with a message body. The delay is sent in whole
// milliseconds.
func AppendDpub(dst []byte, topic string, delay time.Duration, body []byte) []byte {
	return appendSized(appendLine(dst, "DPUB ", topic, " ", millisecondText(delay)), body)
}

// AppendMpub appends MPUB with a batch of message bodies.
func AppendMpub(dst []byte, topic string, bodies ...[]byte) []byte {
	size := sizeSize
	for _, body := range bodies {
		size += sizeSize + len(body)
	}
	dst = appendLine(dst, "MPUB ", topic)
	dst = binary.BigEndian.AppendUint32(dst, uint32(size))
	return AppendBatch(dst, bodies...)
}

// AppendBatch appends the batch of an MPUB without its outer size, which is
// also the body of HTTP's binary /mpub.
func AppendBatch(dst []byte, bodies ...[]byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(bodies)))
	for _, body := range bodies {
		dst = appendSized(dst, body)
	}
	return dst
}

// AppendRdy appends RDY.
func AppendRdy(dst []byte, count int64) []byte {
	return append(strconv.AppendInt(append(dst, "RDY "...), count, 10), '\n')
}

// AppendFin appends FIN.
func AppendFin(dst []byte, id uint64) []byte {
	return append(AppendMessageID(append(dst, "FIN "...), id), '\n')
}

// AppendReq appends REQ. The delay is sent in whole milliseconds.
func AppendReq(dst []byte, id uint64, delay time.Duration) []byte {
	dst = AppendMessageID(append(dst, "REQ "...), id)
	return appendLine(dst, " ", millisecondText(delay))
}

// AppendTouch appends TOUCH.
func AppendTouch(dst []byte, id uint64) []byte {
	return append(AppendMessageID(append(dst, "TOUCH "...), id), '\n')
}

// AppendCls appends CLS.
func AppendCls(dst []byte) []byte { return append(dst, "CLS\n"...) }

// AppendNop appends NOP.
func AppendNop(dst []byte) []byte { return append(dst, "NOP\n"...) }

func appendLine(dst []byte, parts ...string) []byte {
	for _, part := range parts {
		dst = append(dst, part...)
	}
	return append(dst, '\n')
}

func appendSized(dst, body []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(body)))
	return append(dst, body...)
}

func millisecondText(d time.Duration) string {
	return strconv.FormatInt(d.Milliseconds(), 10)
}
