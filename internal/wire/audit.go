package wire

import (
	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// AuditEntry makes a message.
func AuditEntry(e nimbus.AuditEntry) *nimbusv1.AuditEntry {
	return &nimbusv1.AuditEntry{
		Id: e.ID, OrgId: e.OrgID, Seq: e.Seq, At: Time(e.At), Actor: e.Actor, Action: e.Action, Target: e.Target,
		Outcome: string(e.Outcome), Detail: e.Detail, Count: e.Count, PrevHash: e.Prev[:], Hash: e.Hash[:],
	}
}

// ToAuditEntry reads one. A hash of another length becomes the zero hash, which
// no entry has.
func ToAuditEntry(e *nimbusv1.AuditEntry) nimbus.AuditEntry {
	return nimbus.AuditEntry{
		ID: e.GetId(), Seq: e.GetSeq(), At: ToTime(e.GetAt()), Prev: toHash(e.GetPrevHash()), Hash: toHash(e.GetHash()),
		AuditEvent: nimbus.AuditEvent{OrgID: e.GetOrgId(), Actor: e.GetActor(), Action: e.GetAction(), Target: e.GetTarget(),
			Outcome: nimbus.AuditOutcome(e.GetOutcome()), Detail: e.GetDetail(), Count: e.GetCount()},
	}
}

// AuditCheckpoint makes a message.
func AuditCheckpoint(c nimbus.AuditCheckpoint) *nimbusv1.AuditCheckpoint {
	m := &nimbusv1.AuditCheckpoint{OrgId: c.OrgID, Seq: c.Seq, Hash: c.Hash[:], At: Time(c.At), Signature: c.Signature}
	if c.Prev != nimbus.AuditNoPrev {
		m.PrevSeq = &c.Prev
	}
	return m
}

// ToAuditCheckpoint reads one.
func ToAuditCheckpoint(c *nimbusv1.AuditCheckpoint) nimbus.AuditCheckpoint {
	out := nimbus.AuditCheckpoint{OrgID: c.GetOrgId(), Seq: c.GetSeq(), Prev: nimbus.AuditNoPrev, Hash: toHash(c.GetHash()), At: ToTime(c.GetAt()), Signature: c.GetSignature()}
	if c != nil && c.PrevSeq != nil {
		out.Prev = c.GetPrevSeq()
	}
	return out
}

func toHash(raw []byte) (h nimbus.AuditHash) {
	if len(raw) == len(h) {
		copy(h[:], raw)
	}
	return h
}
