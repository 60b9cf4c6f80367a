package bearer

import (
	"crypto/ed25519"
	"fmt"
	"time"
)

// Claim is what a host signs to open a session: that the token with this hash is
// to be its own from now on. The control plane learns the token only when the
// host uses it, so that a claim is worth nothing to who listens in or keeps one.
type Claim struct {
	HostID string
	// Number grows with each session of the host. It takes the place of a clock:
	// no old claim is taken again, and none has to be fresh.
	Number    int64
	TokenHash string // of a token of the kind Host
}

// message is what is signed. Its first line keeps it apart from whatever else
// the key may sign one day; the fields can't hold a line break.
func (c Claim) message() []byte {
	return fmt.Appendf(nil, "nimbus host session v1\n%s\n%d\n%s\n", c.HostID, c.Number, c.TokenHash)
}

// Sign proves the claim with the host's key.
func (c Claim) Sign(key ed25519.PrivateKey) []byte { return ed25519.Sign(key, c.message()) }

// SignedBy tells whether the owner of a public key made the claim.
func (c Claim) SignedBy(public ed25519.PublicKey, signature []byte) bool {
	return len(public) == ed25519.PublicKeySize && ed25519.Verify(public, c.message(), signature)
}

// Session is what came of a claim.
type Session struct {
	Opened   bool
	Number   int64         // of the host's last one
	ValidFor time.Duration // from now on
}
