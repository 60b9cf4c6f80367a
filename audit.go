package nimbus

import (
	"encoding/hex"
	"time"
)

// AuditOutcome is what came of something that was asked for.
type AuditOutcome string

// The outcomes.
const (
	AuditAllowed AuditOutcome = "allowed"
	AuditDenied  AuditOutcome = "denied"
)

// AuditEvent is something that an auditor may ask about one day: a grant, the
// use of an administrator's power, a refusal. It is written in the transaction
// of its effect. No field may hold a secret.
type AuditEvent struct {
	OrgID   string // "" for the platform's own
	Actor   string // as Principal.Actor tells it
	Action  string // noun.verb: "token.create", "host.cordon"
	Target  string // id of what it was done to
	Outcome AuditOutcome
	Detail  map[string]string // what else is worth knowing
	Count   int64             // how many alike it stands for; 0 means 1
}

// AuditSystem is the actor of what Nimbus does by itself, and of what its
// operator tells it at its start.
const AuditSystem = "system"

// AuditHash is a SHA-256, in text 64 hex digits. The zero hash is before the
// first entry of a chain.
type AuditHash [32]byte

// String implements fmt.Stringer.
func (h AuditHash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText implements encoding.TextMarshaler.
func (h AuditHash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *AuditHash) UnmarshalText(text []byte) error {
	raw, err := hex.DecodeString(string(text))
	if err != nil || len(raw) != len(h) {
		return Errorf(CodeInvalid, "%q is not a hash", clip(string(text))).WithHint("a hash is %d hex digits", 2*len(h))
	}
	copy(h[:], raw)
	return nil
}

// AuditEntry is an event in its place in the chain of its org.
type AuditEntry struct {
	AuditEvent

	ID   string
	Seq  int64     // 1, 2, 3 … in each org
	At   time.Time // by the database's clock, to the microsecond
	Prev AuditHash // the hash of the entry before
	Hash AuditHash // of all of this, and so of all before
}

// AuditCheckpoint is a signed statement that a chain had an entry with a hash.
type AuditCheckpoint struct {
	OrgID string
	Seq   int64
	// Prev is the number of the checkpoint before, 0 before the first: none can be
	// left out. AuditNoPrev is in those that were made before checkpoints said it.
	Prev      int64
	Hash      AuditHash
	At        time.Time
	Signature []byte // Ed25519, by the ledger's key
}

// AuditNoPrev is the Prev of a checkpoint that does not tell it.
const AuditNoPrev = -1

// AuditFilter says which entries to list. Empty fields mean any.
type AuditFilter struct {
	Actor, Action, Target string
	Since                 time.Time // then or later
	Until                 time.Time // before
	// OldestFirst lists in the order of the chain; otherwise the newest come first.
	OldestFirst bool
}

// MaxAuditPage is the most entries, or checkpoints, in one page.
const MaxAuditPage = 1000
