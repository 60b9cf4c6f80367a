package nimbus

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"strings"
	"time"
)

// Prefixes of ids, so that a person (and a log search) sees what an id names.
const (
	PrefixOrg      = "org"
	PrefixRepo     = "repo"
	PrefixJob      = "job"
	PrefixAttempt  = "att"
	PrefixHost     = "host"
	PrefixToken    = "tok"
	PrefixUser     = "user"
	PrefixAccount  = "acct"
	PrefixSandbox  = "sbx"
	PrefixDelivery = "del"
	PrefixAudit    = "aud"
	PrefixLimit    = "lim"
	PrefixScaleSet = "set"
	PrefixShell    = "shell"
)

// crockford is the base32 alphabet of ULIDs in lower case: ids are used as
// file names, host names and runner names.
const crockford = "0123456789abcdefghjkmnpqrstvwxyz"

// idLength is the number of characters after the prefix: 128 bits in base32.
const idLength = 26

// NewID returns "<prefix>_<ulid>": 48 bits of at's milliseconds, so that ids
// sort by time, and 80 random bits, so that they can't be guessed.
func NewID(prefix string, at time.Time) string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(at.UnixMilli())<<16)
	rand.Read(b[6:]) // never fails: it ends the program instead
	return encodeID(prefix, b)
}

// FirstID is what all ids sort after that were made at a time or later, to the
// millisecond, and none before.
func FirstID(prefix string, at time.Time) string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(max(0, at.UnixMilli()))<<16)
	return encodeID(prefix, b)
}

// IDTime is when an id was made, to the millisecond; ok is false for what is no
// id of that prefix.
func IDTime(prefix, id string) (at time.Time, ok bool) {
	if CheckID(prefix, id) != nil {
		return time.Time{}, false
	}
	ms := uint64(0)
	for _, c := range []byte(id[len(prefix)+1:][:10]) { // 50 bits, of which two are padding
		ms = ms<<5 | uint64(strings.IndexByte(crockford, c))
	}
	return time.UnixMilli(int64(ms & (1<<48 - 1))).UTC(), true
}

// IDBytes is the 128 bits of an id, for stores that keep ids as numbers. It is
// stricter than CheckID: two ids never have the same bytes. Codes: invalid.
func IDBytes(prefix, id string) (b [16]byte, err error) {
	if err := CheckID(prefix, id); err != nil {
		return b, err
	}
	digits := id[len(prefix)+1:]
	if digits[0] > '7' { // 26 digits have room for 130 bits
		return b, Errorf(CodeInvalid, "%q is no %s id", clip(id), prefix)
	}
	var hi, lo uint64
	for _, c := range []byte(digits) {
		hi, lo = hi<<5|lo>>59, lo<<5|uint64(strings.IndexByte(crockford, c))
	}
	binary.BigEndian.PutUint64(b[:8], hi)
	binary.BigEndian.PutUint64(b[8:], lo)
	return b, nil
}

// IDOf is the id of which IDBytes made the bytes.
func IDOf(prefix string, b [16]byte) string { return encodeID(prefix, b) }

func encodeID(prefix string, b [16]byte) string {
	hi, lo := binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
	var out [idLength]byte
	for i := idLength - 1; i >= 0; i-- {
		out[i] = crockford[lo&31]
		lo = lo>>5 | hi<<59
		hi >>= 5
	}
	return prefix + "_" + string(out[:])
}

// CheckID tells whether id is well formed and has the given prefix. Ids come
// from outside and become file names, so everything that takes one checks it.
func CheckID(prefix, id string) error {
	rest, ok := strings.CutPrefix(id, prefix+"_")
	if !ok || len(rest) != idLength {
		return Errorf(CodeInvalid, "%q is no %s id", clip(id), prefix).
			WithHint("%s ids look like %s_%s", prefix, prefix, strings.Repeat("0", idLength))
	}
	for _, c := range rest {
		if !strings.ContainsRune(crockford, c) {
			return Errorf(CodeInvalid, "%q is no %s id", clip(id), prefix)
		}
	}
	return nil
}

// clip shortens a caller's text before it is repeated in an error.
func clip(s string) string { return clipTo(80, s) }

func clipTo(most int, s string) string {
	if len(s) > most {
		return fmt.Sprintf("%s… (%d bytes)", strings.ToValidUTF8(s[:most], ""), len(s))
	}
	return s
}
