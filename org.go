package nimbus

import "time"

// DefaultOrg is the org of the embedded profile: GitHub owners that are not
// mapped to another org belong to it.
const DefaultOrg = "default"

// DefaultOrgID is the id of DefaultOrg, which every database holds from its
// first migration on.
const DefaultOrgID = "org_00000000000000000000000000"

// Org is a tenant. Every row, key, path and token of a tenant carries its id.
type Org struct {
	ID        string
	Name      string // unique, lower case
	CreatedAt time.Time
}

// PrincipalKind is what sort of caller a token stands for.
type PrincipalKind string

// The kinds of caller, each with its own kind of token (nbs_<kind>_…).
const (
	PrincipalAdmin PrincipalKind = "admin" // the platform's administrator
	PrincipalJoin  PrincipalKind = "join"  // may join one host, once
	PrincipalHost  PrincipalKind = "host"  // one host
	PrincipalJob   PrincipalKind = "job"   // one attempt of one job, once bound
)

// Principal is an authenticated caller.
type Principal struct {
	Kind    PrincipalKind
	TokenID string
	OrgID   string // the org it may act in; "" for a host and for the administrator, who may act in all
	Subject string // user, host or attempt id
}

// Actor is how the principal is written into a job's history.
func (p Principal) Actor() string { return string(p.Kind) + ":" + p.Subject }
