package nimbus

import (
	"slices"
	"strings"
)

// Role is what somebody may do in an org. Each includes those before it.
type Role string

// The roles, the least first.
const (
	RoleViewer    Role = "viewer"    // reads jobs and their logs
	RoleDeveloper Role = "developer" // also runs, cancels and reruns jobs
	RoleOperator  Role = "operator"  // also sets limits and priorities
	RoleAdmin     Role = "admin"     // also says who may do what
)

// Roles are all roles, the least first.
func Roles() []Role { return []Role{RoleViewer, RoleDeveloper, RoleOperator, RoleAdmin} }

// Includes tells whether a role may do what another may. What is no role
// includes nothing, and is included by nothing.
func (r Role) Includes(other Role) bool {
	have, want := slices.Index(Roles(), r), slices.Index(Roles(), other)
	return want >= 0 && have >= want
}

// Least is the lesser of two roles.
func (r Role) Least(other Role) Role {
	if r.Includes(other) {
		return other
	}
	return r
}

// CheckRole tells whether a role is one.
func CheckRole(r Role) error {
	if !slices.Contains(Roles(), r) {
		return Errorf(CodeInvalid, "%q is no role", clip(string(r))).WithHint("the roles are viewer, developer, operator and admin")
	}
	return nil
}

// Scope narrows a token to a part of what its role may do.
type Scope string

// The scopes.
const (
	ScopeJobsRead    Scope = "jobs:read"
	ScopeJobsWrite   Scope = "jobs:write"
	ScopeHostsRead   Scope = "hosts:read"
	ScopeHostsWrite  Scope = "hosts:write"
	ScopeOrgRead     Scope = "org:read"  // members, service accounts, repositories, limits
	ScopeOrgWrite    Scope = "org:write" // and to change them
	ScopeTokensRead  Scope = "tokens:read"
	ScopeTokensWrite Scope = "tokens:write"
	ScopeAuditRead   Scope = "audit:read"
	ScopeMetricsRead Scope = "metrics:read"
	ScopeShells      Scope = "shells" // to open terminals in the sandboxes of jobs

	ScopeRegistryRead  Scope = "registry:read"  // images
	ScopeRegistryWrite Scope = "registry:write" // and to push and remove them
)

// Scopes are all scopes.
func Scopes() []Scope {
	return []Scope{ScopeJobsRead, ScopeJobsWrite, ScopeHostsRead, ScopeHostsWrite, ScopeOrgRead, ScopeOrgWrite,
		ScopeTokensRead, ScopeTokensWrite, ScopeAuditRead, ScopeMetricsRead, ScopeShells,
		ScopeRegistryRead, ScopeRegistryWrite}
}

// JoinScopes is a list of scopes as people read it.
func JoinScopes(scopes []Scope) string {
	words := make([]string, len(scopes))
	for i, s := range scopes {
		words[i] = string(s)
	}
	return strings.Join(words, " ")
}

// CheckScopes tells whether all of a list are scopes.
func CheckScopes(scopes []Scope) error {
	for _, s := range scopes {
		if !slices.Contains(Scopes(), s) {
			return Errorf(CodeInvalid, "%q is no scope", clip(string(s))).WithHint("the scopes are %s", JoinScopes(Scopes()))
		}
	}
	return nil
}
