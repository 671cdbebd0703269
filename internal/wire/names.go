package wire

import "strings"

// NameSizeMax is the longest name of a topic or channel in bytes, its suffix
// included.
const NameSizeMax = 64

// ephemeralSuffix marks topics and channels that are never written to disk
// and vanish with their last user.
const ephemeralSuffix = "#ephemeral"

// nameBytes says which bytes may stand in a name before its suffix.
var nameBytes = func() (t [256]bool) {
	for _, c := range "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_" {
		t[c] = true
	}
	return t
}()

// ValidName reports whether b names a topic or a channel: one to NameSizeMax
// bytes of letters, digits, dot, dash and underscore, and then perhaps
// "#ephemeral", which alone is no name.
func ValidName[T string | []byte](b T) bool {
	if len(b) == 0 || len(b) > NameSizeMax {
		return false
	}
	for i := range len(b) {
		if !nameBytes[b[i]] {
			return i > 0 && string(b[i:]) == ephemeralSuffix
		}
	}
	return true
}

// IsEphemeral reports whether a valid name carries the "#ephemeral" suffix.
func IsEphemeral[T string | []byte](name T) bool {
	return strings.HasSuffix(string(name), ephemeralSuffix)
}
