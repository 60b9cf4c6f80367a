package identity

import (
	"context"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// State is whether a token works.
type State string

// The states. A single-use token is used once.
const (
	StateActive  State = "active"
	StateUsed    State = "used"
	StateRevoked State = "revoked"
)

// Record is what is kept of a token: everything but the token.
type Record struct {
	ID      string
	Kind    Kind
	Version int64  // of what is kept
	OrgID   string // "" for the platform's own
	Subject string
	Hash    string
	State   State

	Name      string
	Role      nimbus.Role // the most that it may do; "" for its owner's
	Scopes    []nimbus.Scope
	Parent    string // the token that it was made with, and ends with; "" for none
	CreatedBy string

	ValidFor  time.Duration // 0: for ever
	CreatedAt time.Time
	ExpiresAt time.Time // zero: never
}

// Bearer is a token with whose it is, as of one moment.
type Bearer struct {
	Record
	Now   time.Time // by the store's clock
	Owner *Owner    // the user or service account; nil when there is none (any more)
}

// Owner is a user or a service account as its tokens need it.
type Owner struct {
	Name, Email string
	Platform    bool
	Orgs        []nimbus.Membership // the one joined first at the head
}

// Revocation tells that a token, or all of a subject, may do less than before;
// "" stands for everybody.
type Revocation struct {
	Seq     int64
	Subject string
}

// Store keeps tokens, the directory and sealed secrets. Times are its own
// clock. An audit event is written in the transaction of its effect; one
// without an action is not written. Whatever takes a right away adds to the
// revocations in the same transaction.
type Store interface {
	HostStore
	SealedStore
	Tokens
	Directory
	PutSecret(ctx context.Context, orgID, name string, sealed []byte, e nimbus.AuditEvent) error
	// CreateSecret keeps one where there is none of that name. Codes: conflict.
	CreateSecret(ctx context.Context, orgID, name string, sealed []byte) error
	// Secret returns a sealed secret. Codes: not_found.
	Secret(ctx context.Context, orgID, name string) ([]byte, error)
	// SecretNames are the names of an org's secrets.
	SecretNames(ctx context.Context, orgID string) ([]SecretName, error)
	// DeleteSecret forgets a secret. Codes: not_found.
	DeleteSecret(ctx context.Context, orgID, name string, e nimbus.AuditEvent) error
}

// SecretName is a secret that is kept, and since when it is as it is.
type SecretName struct {
	Name      string
	ChangedAt time.Time
}

// Tokens is the part of Store that is about tokens.
type Tokens interface {
	// InsertToken keeps a token. One that was made with another ends no later
	// than that. Codes: unauthenticated when that is revoked, forbidden.
	InsertToken(ctx context.Context, r Record, e nimbus.AuditEvent) error
	// Bearer finds a token by its hash. Codes: not_found.
	Bearer(ctx context.Context, hash string) (Bearer, error)
	// UseToken makes an active, unexpired token used. Of two that try at once
	// one succeeds. Codes: not_found.
	UseToken(ctx context.Context, hash string) error
	// EndSession makes a session used; the event is of its org. One that is none
	// is no error.
	EndSession(ctx context.Context, hash string, e nimbus.AuditEvent) error
	// JobToken is the attempt that a job's token is of, while it is proved to
	// run its job. Codes: not_found.
	JobToken(ctx context.Context, hash string) (orgID, attemptID string, err error)
	// CountTokens counts those of a kind that there are, whatever their state.
	CountTokens(ctx context.Context, kind Kind) (int64, error)
	// ListTokens lists the tokens that people made in an org, by id: those of
	// subject, or of all for "".
	ListTokens(ctx context.Context, orgID, subject string, page nimbus.PageRequest) ([]nimbus.Token, error)
	// RevokeToken ends one of them, and all that was made with it but for keep,
	// "" for none. The last that administers the platform is refused. Codes:
	// not_found, conflict.
	RevokeToken(ctx context.Context, orgID, subject, tokenID, keep string, e nimbus.AuditEvent) error
	// TouchTokens writes that tokens were used just now.
	TouchTokens(ctx context.Context, ids []string) error
	// Revocations are those after a number, in order, at most so many. Those of
	// the last hour are there.
	Revocations(ctx context.Context, after int64, most int) ([]Revocation, error)
	// LastRevocation is the number of the last.
	LastRevocation(ctx context.Context) (int64, error)
	// PurgeTokens removes those that expired more than keep ago.
	PurgeTokens(ctx context.Context, keep time.Duration) error
}

// Directory is the part of Store that is about orgs, people and programs. What
// is of an org takes the org's id, and knows nothing beyond it. Lists are in
// the order of ids, after the page's token, one more than its size.
type Directory interface {
	// CreateOrg makes an org with its owners. Codes: conflict.
	CreateOrg(ctx context.Context, o nimbus.Org, e nimbus.AuditEvent) error
	// Org finds one by id or name. Codes: not_found.
	Org(ctx context.Context, idOrName string) (nimbus.Org, error)
	Orgs(ctx context.Context, page nimbus.PageRequest) ([]nimbus.Org, error)
	// OrgOf is the org that a thing is of, by its id, or the name of an org or a
	// repository; "" for what is of none, or is not there.
	OrgOf(ctx context.Context, thing string) (string, error)
	// SetOwners puts owners in the place of those that an org had. Codes:
	// conflict when another org has one.
	SetOwners(ctx context.Context, orgID string, owners []string, e nimbus.AuditEvent) error
	// DeleteOrg deletes an org without history. Codes: not_found, conflict.
	DeleteOrg(ctx context.Context, orgID string, e nimbus.AuditEvent) error
	Repos(ctx context.Context, orgID string, page nimbus.PageRequest) ([]nimbus.Repo, error)
	// MoveRepo gives a repository, by id or name, to an org. Codes: not_found.
	MoveRepo(ctx context.Context, repo, orgID string, e nimbus.AuditEvent) (nimbus.Repo, error)

	// CreateUser makes a user. Codes: conflict.
	CreateUser(ctx context.Context, u nimbus.User, e nimbus.AuditEvent) error
	// User finds one by id or address. Codes: not_found.
	User(ctx context.Context, idOrEmail string) (nimbus.User, error)
	Users(ctx context.Context, page nimbus.PageRequest) ([]nimbus.User, error)
	SetPlatformAdmin(ctx context.Context, userID string, on bool, e nimbus.AuditEvent) error
	RemoveUser(ctx context.Context, userID string, e nimbus.AuditEvent) error

	// SetMember gives the user with an address a role, and makes u where there
	// is none.
	SetMember(ctx context.Context, orgID string, u nimbus.User, role nimbus.Role, e nimbus.AuditEvent) (nimbus.Membership, error)
	Members(ctx context.Context, orgID string, page nimbus.PageRequest) ([]nimbus.Membership, error)
	// RemoveMember takes a user out of an org. Codes: not_found.
	RemoveMember(ctx context.Context, orgID, userID string, e nimbus.AuditEvent) error

	// CreateAccount makes a service account. Codes: conflict.
	CreateAccount(ctx context.Context, a nimbus.ServiceAccount, e nimbus.AuditEvent) error
	Accounts(ctx context.Context, orgID string, page nimbus.PageRequest) ([]nimbus.ServiceAccount, error)
	// Account finds one of an org. Codes: not_found.
	Account(ctx context.Context, orgID, accountID string) (nimbus.ServiceAccount, error)
	// DeleteAccount deletes it and ends its tokens. Codes: not_found.
	DeleteAccount(ctx context.Context, orgID, accountID string, e nimbus.AuditEvent) error
}
