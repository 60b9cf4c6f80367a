// Package audit is the ledger of who was given what, who used which power, and
// who was refused. Each org has a chain of its own, and so has the platform: an
// entry's hash covers the hash before it, so that nothing in between can be
// changed, moved or left out without a trace, and signed checkpoints say where
// a chain was. What is to be recorded comes through an outbox, in the
// transaction of its effect; Ledger moves it into the chains.
//
// Verifier trusts nobody but the holder of the key: it runs at whoever asks.
package audit

import (
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// The first field of what is hashed and signed: one is never taken for the other.
const (
	entryDomain      = "nimbus audit entry 1"
	checkpointDomain = "nimbus audit checkpoint 2"
	// looseDomain is of checkpoints from before they told which one was before.
	looseDomain = "nimbus audit checkpoint 1"
)

// encoding is an unambiguous row of fields: each text has its length before it,
// each number has eight bytes.
type encoding []byte

func (e *encoding) number(n int64) { *e = binary.BigEndian.AppendUint64(*e, uint64(n)) }

func (e *encoding) text(s string) {
	e.number(int64(len(s)))
	*e = append(*e, s...)
}

func (e *encoding) time(t time.Time) {
	e.number(t.Unix())
	e.number(int64(t.Nanosecond()))
}

// HashOf is the hash that an entry must have.
func HashOf(e nimbus.AuditEntry) nimbus.AuditHash {
	var enc encoding
	enc.text(entryDomain)
	enc.text(string(e.Prev[:]))
	enc.text(e.OrgID)
	enc.number(e.Seq)
	enc.text(e.ID)
	enc.time(e.At)
	for _, field := range []string{e.Actor, e.Action, e.Target, string(e.Outcome)} {
		enc.text(field)
	}
	enc.number(int64(len(e.Detail)))
	for _, key := range slices.Sorted(maps.Keys(e.Detail)) {
		enc.text(key)
		enc.text(e.Detail[key])
	}
	enc.number(e.Count)
	return sha256.Sum256(enc)
}

// Head is the end of a chain; the zero Head is one without entries.
type Head struct {
	Seq  int64
	Hash nimbus.AuditHash
}

// Next gives an event its place behind the head, and moves the head.
func (h *Head) Next(e nimbus.AuditEntry) nimbus.AuditEntry {
	e.Seq, e.Prev = h.Seq+1, h.Hash
	e.Hash = HashOf(e)
	h.Seq, h.Hash = e.Seq, e.Hash
	return e
}
