package wire

import "encoding/binary"

// MessageIDSize is the size of a message id on the wire: a 64-bit number as
// lower-case hexadecimal digits.
const MessageIDSize = 16

// Eight digits are handled at once, one in each byte of a word. A digit's
// value is its low nibble, plus nine for a letter (letters have bit 6 set).
const (
	ones    = 0x0101010101010101
	nibbles = 0x0f * ones
	// letterGap is what lies between '9' and 'a' besides one step.
	letterGap = 'a' - '9' - 1
)

// ParseMessageID reads the MessageIDSize bytes at the start of b. It answers
// false unless they are all lower-case hexadecimal digits: nsqd takes any
// bytes as an id, but gives out only such, so that others are never in flight.
func ParseMessageID(b []byte) (id uint64, ok bool) {
	_ = b[MessageIDSize-1]
	hi, ok1 := digitsToWord(binary.BigEndian.Uint64(b))
	lo, ok2 := digitsToWord(binary.BigEndian.Uint64(b[8:]))
	return hi<<32 | lo, ok1 && ok2
}

// PutMessageID writes id as MessageIDSize digits to the start of dst.
func PutMessageID(dst []byte, id uint64) {
	_ = dst[MessageIDSize-1]
	binary.BigEndian.PutUint64(dst, valuesToDigits(spread(id>>32)))
	binary.BigEndian.PutUint64(dst[8:], valuesToDigits(spread(id&0xffffffff)))
}

// AppendMessageID appends id as MessageIDSize digits.
func AppendMessageID(dst []byte, id uint64) []byte {
	var d [MessageIDSize]byte
	PutMessageID(d[:], id)
	return append(dst, d[:]...)
}

// digitsToWord turns eight digits, the first in the top byte, into a 32-bit
// number. What is no digit does not come back when the values are spelt again.
func digitsToWord(digits uint64) (uint64, bool) {
	v := digits&nibbles + 9*(digits>>6&ones)
	ok := v&^nibbles == 0 && valuesToDigits(v) == digits
	v = (v | v>>4) & 0x00ff00ff00ff00ff
	v = (v | v>>8) & 0x0000ffff0000ffff
	return (v | v>>16) & 0x00000000ffffffff, ok
}

// spread puts each nibble of a 32-bit number into a byte of its own.
func spread(v uint64) uint64 {
	v = (v | v<<16) & 0x0000ffff0000ffff
	v = (v | v<<8) & 0x00ff00ff00ff00ff
	return (v | v<<4) & nibbles
}

// valuesToDigits spells eight values below 16; adding six carries into bit 4
// exactly for those that are letters.
func valuesToDigits(v uint64) uint64 {
	letters := (v + 6*ones) >> 4 & ones
	return v + '0'*ones + letterGap*letters
}
