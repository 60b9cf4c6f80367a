package audit

import (
	"crypto/ed25519"
	"fmt"

	"github.com/nimbus-ci/nimbus"
)

// BrokenError says where a chain is not what was recorded.
type BrokenError struct {
	OrgID string
	Seq   int64  // of the first entry that is wrong or missing
	ID    string // of what stands there; "" where nothing does
	What  string
}

// Error implements error.
func (b *BrokenError) Error() string {
	chain := "the platform's chain"
	if b.OrgID != "" {
		chain = "the chain of " + b.OrgID
	}
	at := fmt.Sprintf("entry %d", b.Seq)
	if b.ID != "" {
		at += " (" + b.ID + ")"
	}
	return fmt.Sprintf("%s is broken at %s: %s", chain, at, b.What)
}

// Verifier follows one chain from its first entry: entries in order, each
// checkpoint behind the entry that it is about. After the first error it gives
// no other.
type Verifier struct {
	orgID string
	keys  []ed25519.PublicKey
	known map[int64]nimbus.AuditHash // what the chain must come by
	head  Head
	last  int64 // entry with the last checkpoint
	count int64 // checkpoints
	err   error
}

// NewVerifier verifies the chain of an org ("" for the platform's) by the keys
// that may have signed its checkpoints.
func NewVerifier(orgID string, keys ...ed25519.PublicKey) *Verifier {
	return &Verifier{orgID: orgID, keys: keys, known: map[int64]nimbus.AuditHash{}}
}

// Expect has the chain come by a checkpoint that was kept elsewhere, which is
// how a history that was written anew as a whole is found.
func (v *Verifier) Expect(c nimbus.AuditCheckpoint) error {
	if c.OrgID != v.orgID || !signed(c, v.keys) {
		return nimbus.Errorf(nimbus.CodeInvalid, "the checkpoint of entry %d that was kept is of another chain, or signed by another key", c.Seq)
	}
	if before, ok := v.known[c.Seq]; ok && before != c.Hash {
		return v.broken(c.Seq, "", "of the checkpoints that were kept, two contradict each other")
	}
	v.known[c.Seq] = c.Hash
	return nil
}

// Entry takes the next entry.
func (v *Verifier) Entry(e nimbus.AuditEntry) error {
	want, expected := v.known[e.Seq]
	switch {
	case v.err != nil:
		return v.err
	case e.OrgID != v.orgID:
		return v.broken(v.head.Seq+1, e.ID, fmt.Sprintf("it is of another chain, %q", e.OrgID))
	case e.Seq != v.head.Seq+1:
		return v.broken(v.head.Seq+1, "", fmt.Sprintf("it is missing: number %d comes next", e.Seq))
	case e.Prev != v.head.Hash:
		return v.broken(e.Seq, e.ID, "it does not follow on the entry before")
	case e.Hash != HashOf(e):
		return v.broken(e.Seq, e.ID, "it was changed: its hash is another")
	case expected && want != e.Hash:
		return v.broken(e.Seq, e.ID, "it is not the one of the checkpoint that was kept")
	}
	v.head = Head{e.Seq, e.Hash}
	return nil
}

// Checkpoint takes a checkpoint, once its entry is there.
func (v *Verifier) Checkpoint(c nimbus.AuditCheckpoint) error {
	switch {
	case v.err != nil:
		return v.err
	case c.OrgID != v.orgID:
		return v.broken(c.Seq, "", fmt.Sprintf("its checkpoint is of another chain, %q", c.OrgID))
	case !signed(c, v.keys):
		return v.broken(c.Seq, "", "its checkpoint is not signed by the ledger's key")
	case c.Seq > v.head.Seq:
		return v.broken(v.head.Seq+1, "", fmt.Sprintf("it is missing: a checkpoint says that there were %d entries", c.Seq))
	case c.Seq < v.head.Seq || c.Seq == v.last:
		return v.broken(c.Seq, "", "its checkpoint is not where it belongs")
	case c.Hash != v.head.Hash:
		return v.broken(c.Seq, "", "it is not the one that its checkpoint is about")
	case c.Prev == nimbus.AuditNoPrev:
	case c.Prev > v.last:
		return v.broken(c.Prev, "", fmt.Sprintf("its checkpoint is missing: the next one, of entry %d, says that there was one", c.Seq))
	case c.Prev < v.last:
		return v.broken(v.last, "", fmt.Sprintf("its checkpoint is one too many: the next one, of entry %d, follows on that of entry %d", c.Seq, c.Prev))
	}
	v.last, v.count = c.Seq, v.count+1
	return nil
}

// End says that there is no more, and tells how much there was. Every entry
// must be covered by a checkpoint.
func (v *Verifier) End() (entries, checkpoints int64, err error) {
	missing := int64(0)
	for seq := range v.known {
		if seq > v.head.Seq {
			missing = max(missing, seq)
		}
	}
	switch {
	case v.err != nil:
	case missing > 0:
		v.err = v.broken(v.head.Seq+1, "", fmt.Sprintf("it is missing: a checkpoint that was kept says that there were %d entries", missing))
	case v.last != v.head.Seq:
		v.err = v.broken(v.last+1, "", "no checkpoint covers it")
	}
	return v.head.Seq, v.count, v.err
}

func (v *Verifier) broken(seq int64, id, what string) error {
	v.err = &BrokenError{OrgID: v.orgID, Seq: seq, ID: id, What: what}
	return v.err
}
