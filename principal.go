package nimbus

import (
	"slices"
	"time"
)

// PrincipalKind is what sort of caller a token stands for.
type PrincipalKind string

// The kinds of caller, each with its own kind of token (nbs_<kind>_…).
const (
	PrincipalAdmin   PrincipalKind = "admin"   // the platform's administrator
	PrincipalUser    PrincipalKind = "user"    // a person
	PrincipalAccount PrincipalKind = "account" // a service account
	PrincipalJoin    PrincipalKind = "join"    // may join one host, once
	PrincipalHost    PrincipalKind = "host"    // one host
	PrincipalJob     PrincipalKind = "job"     // one attempt of one job, once bound
)

// Principal is an authenticated caller.
type Principal struct {
	Kind    PrincipalKind
	TokenID string
	Subject string // id of the user, service account, host or attempt
	// Name and Email are what people call a user or a service account.
	Name, Email string
	// OrgID is the org that it acts in and Role what it may do there: of a
	// person, set by In; of a job, its own; of a host, none.
	OrgID string
	Role  Role
	// Platform is set for those who administer the platform: they may act in
	// every org.
	Platform bool
	// Scopes narrow what the role allows; none mean all of it.
	Scopes []Scope
	// Orgs are those that a person or a service account may act in, the one
	// joined first at the head.
	Orgs []Membership
	// FromSession is set for a browser's session.
	FromSession bool
	// Parent is the token that the caller's own was made with, "" for none.
	Parent string
}

// Maker is the token that what the principal makes ends with: its own, or of a
// browser's session the one that the session was made with.
func (p Principal) Maker() string {
	if p.FromSession {
		return p.Parent
	}
	return p.TokenID
}

// Actor is how the principal is written into a job's history.
func (p Principal) Actor() string { return string(p.Kind) + ":" + p.Subject }

// Person tells whether somebody calls who has a role in orgs, or administers
// the platform: a user, a service account, an administrator.
func (p Principal) Person() bool {
	return p.Kind == PrincipalAdmin || p.Kind == PrincipalUser || p.Kind == PrincipalAccount
}

// May tells whether the principal's scopes allow something.
func (p Principal) May(s Scope) bool { return len(p.Scopes) == 0 || slices.Contains(p.Scopes, s) }

// In is the principal as it acts in one of its orgs; false when it may not.
func (p Principal) In(orgID string) (Principal, bool) {
	p.OrgID = orgID
	if p.Platform {
		p.Role = RoleAdmin
		return p, true
	}
	i := slices.IndexFunc(p.Orgs, func(m Membership) bool { return m.OrgID == orgID })
	if i < 0 {
		return Principal{}, false
	}
	p.Role = p.Orgs[i].Role
	return p, true
}

// Token is what is known of a token that somebody made: all but the token.
type Token struct {
	ID         string
	Kind       PrincipalKind
	OrgID      string // "" for the platform's
	Subject    string // id of the user or service account
	Name       string // what it is for
	Role       Role   // the most that it may do
	Scopes     []Scope
	CreatedBy  string // as Principal.Actor tells it
	CreatedAt  time.Time
	ExpiresAt  time.Time // zero for never
	LastUsedAt time.Time // to the minute; zero for never
	RevokedAt  time.Time // zero for not
	Parent     string    // the token that it was made with, and ends with; "" for none
}

// NewToken is a token to be made.
type NewToken struct {
	Name string
	// AccountID is the service account that it is for; "" means the caller.
	AccountID string
	// User is the member of the org that it is for, by id or address, where an
	// administrator of the platform makes it; "" means the caller.
	User string
	// Platform makes one that administers the platform.
	Platform bool
	Role     Role          // at most this; "" means the owner's
	Scopes   []Scope       // none mean all that the role allows
	ValidFor time.Duration // 0 means DefaultTokenFor; it ends with the maker's token at the latest
}

// How long tokens that people make are valid.
const (
	DefaultTokenFor = 90 * 24 * time.Hour
	MaxTokenFor     = 366 * 24 * time.Hour
)
