package identity

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/bearer"
)

// Times of a host's sessions.
const (
	// HostSessionFor is how long one lasts. The host opens the next at half of it.
	HostSessionFor = time.Hour
	// hostOverlap is how long the one before goes on, for calls that are under way.
	hostOverlap = 2 * time.Minute
)

// HostStore keeps what hosts prove themselves with.
type HostStore interface {
	// PutHostKey keeps the key of a host that has none. joinHash is the hash of
	// the join token that it came with, or "". Repeating it with the same key is
	// safe. Codes: not_found for a host that is not there, conflict.
	PutHostKey(ctx context.Context, hostID string, key []byte, joinHash string) error
	// HostKey is a host's key; removed tells of a host that was taken away, and
	// of a host without a key the key is nil. Codes: not_found.
	HostKey(ctx context.Context, hostID string) (key []byte, removed bool, err error)
	// JoinedHost is the host that a join token made, and its key. Codes: not_found.
	JoinedHost(ctx context.Context, joinHash string) (hostID string, key []byte, err error)
	// OpenHostSession makes a token a host's own, removes what is left of
	// earlier ones and ends the last after an overlap, unless the claim's number
	// is not above all before. Codes: not_found for a host without a key.
	OpenHostSession(ctx context.Context, s NewHostSession) (bearer.Session, error)
}

// NewHostSession is a session that a host has proved its right to.
type NewHostSession struct {
	TokenID   string
	HostID    string
	Number    int64
	TokenHash string
	ValidFor  time.Duration
	Overlap   time.Duration
}

// EnrollHost keeps the public key of a host: that of one that has just joined
// with a token, or, with "", of one that joined before hosts had keys. Codes:
// invalid, conflict when it has another.
func (s *Service) EnrollHost(ctx context.Context, hostID string, key []byte, joinToken string) error {
	if len(key) != ed25519.PublicKeySize {
		return nimbus.Errorf(nimbus.CodeInvalid, "a host's public key has %d bytes", ed25519.PublicKeySize)
	}
	joinHash := ""
	if joinToken != "" {
		joinHash = hash(joinToken)
	}
	return s.store.PutHostKey(ctx, hostID, key, joinHash)
}

// JoinedHost is the host that a join token made for the owner of a key: who
// joins and hears no answer asks again. Codes: not_found.
func (s *Service) JoinedHost(ctx context.Context, joinToken string, key []byte) (string, error) {
	hostID, has, err := s.store.JoinedHost(ctx, hash(joinToken))
	if err != nil {
		return "", err
	}
	if !bytes.Equal(has, key) {
		return "", nimbus.Errorf(nimbus.CodeNotFound, "this token made no host for this key")
	}
	return hostID, nil
}

// OpenHostSession makes the token of a claim a host's own for a while. Codes:
// unauthenticated for a claim that the host did not sign, invalid.
func (s *Service) OpenHostSession(ctx context.Context, c bearer.Claim, signature []byte) (bearer.Session, error) {
	if sum, err := hex.DecodeString(c.TokenHash); err != nil || len(sum) != 32 || c.TokenHash != hex.EncodeToString(sum) {
		return bearer.Session{}, nimbus.Errorf(nimbus.CodeInvalid, "a token's hash is its SHA-256 in hex")
	}
	key, removed, err := s.store.HostKey(ctx, c.HostID)
	switch {
	case nimbus.ErrorCode(err) == nimbus.CodeNotFound:
		return bearer.Session{}, noHost("this host is not known here")
	case err != nil:
		return bearer.Session{}, err
	case removed:
		return bearer.Session{}, noHost("this host was removed")
	case key == nil:
		return bearer.Session{}, noHost("this host has no key here")
	case !c.SignedBy(key, signature):
		return bearer.Session{}, noHost("this is not the key of this host")
	}
	out, err := s.store.OpenHostSession(ctx, NewHostSession{
		TokenID: nimbus.NewID(nimbus.PrefixToken, s.clock.Now()), HostID: c.HostID, Number: c.Number, TokenHash: c.TokenHash,
		ValidFor: HostSessionFor, Overlap: hostOverlap,
	})
	if nimbus.ErrorCode(err) == nimbus.CodeNotFound { // since a moment ago
		return bearer.Session{}, noHost("this host was removed")
	}
	return out, err
}

func noHost(why string) *nimbus.Error {
	return nimbus.Errorf(nimbus.CodeUnauthenticated, "%s", why).
		WithHint("to join anew, make a token with `nimbus hosts token` and start the agent with --join-token-file")
}
