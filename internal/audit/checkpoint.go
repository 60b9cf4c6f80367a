package audit

import (
	"crypto/ed25519"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// sign says that the chain of an org has this head, and where its checkpoint
// before was.
func sign(key ed25519.PrivateKey, orgID string, prev int64, h Head, at time.Time) nimbus.AuditCheckpoint {
	c := nimbus.AuditCheckpoint{OrgID: orgID, Seq: h.Seq, Prev: prev, Hash: h.Hash, At: at}
	c.Signature = ed25519.Sign(key, statement(c))
	return c
}

// signed tells whether one of the keys has signed a checkpoint.
func signed(c nimbus.AuditCheckpoint, keys []ed25519.PublicKey) bool {
	text := statement(c)
	for _, key := range keys {
		if len(key) == ed25519.PublicKeySize && ed25519.Verify(key, text, c.Signature) {
			return true
		}
	}
	return false
}

// statement is what is signed.
func statement(c nimbus.AuditCheckpoint) []byte {
	var enc encoding
	if c.Prev == nimbus.AuditNoPrev {
		enc.text(looseDomain)
	} else {
		enc.text(checkpointDomain)
		enc.number(c.Prev)
	}
	enc.text(c.OrgID)
	enc.number(c.Seq)
	enc.text(string(c.Hash[:]))
	enc.time(c.At)
	return enc
}
