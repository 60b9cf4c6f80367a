package nimbus

import (
	"slices"
	"testing"
)

func TestEachRoleIncludesThoseBefore(t *testing.T) {
	t.Parallel()
	for i, have := range Roles() {
		for k, want := range Roles() {
			if have.Includes(want) != (i >= k) {
				t.Errorf("%s includes %s: %v", have, want, have.Includes(want))
			}
			if got := have.Least(want); got != Roles()[min(i, k)] || got != want.Least(have) {
				t.Errorf("of %s and %s the least is %s", have, want, got)
			}
		}
		for _, none := range []Role{"", "root"} {
			if have.Includes(none) || none.Includes(have) || none.Includes(none) || none.Least(have) == have || CheckRole(none) == nil {
				t.Errorf("%q counts as a role beside %s", none, have)
			}
		}
	}
}

func TestAPrincipalActsWhereItHasARole(t *testing.T) {
	t.Parallel()
	p := Principal{Kind: PrincipalUser, Orgs: []Membership{{OrgID: "a", Role: RoleViewer}, {OrgID: "b", Role: RoleAdmin}}}
	if in, ok := p.In("b"); !ok || in.Role != RoleAdmin || in.OrgID != "b" {
		t.Errorf("%+v, %v", in, ok)
	}
	if in, ok := p.In("c"); ok || in.Role != "" || in.Person() {
		t.Errorf("where it has no role: %+v, %v", in, ok)
	}
	p.Platform = true
	if in, ok := p.In("c"); !ok || in.Role != RoleAdmin {
		t.Errorf("an administrator of the platform: %+v, %v", in, ok)
	}
	p.Scopes = []Scope{ScopeJobsRead}
	for _, s := range Scopes() {
		if p.May(s) != (s == ScopeJobsRead) || !(Principal{}).May(s) {
			t.Errorf("%s: %v", s, p.May(s))
		}
	}
	if CheckScopes(Scopes()) != nil || CheckScopes([]Scope{"jobs"}) == nil || !slices.IsSortedFunc(Roles(), func(a, b Role) int {
		if b.Includes(a) {
			return -1
		}
		return 1
	}) {
		t.Error("what is a scope, or the order of roles, is wrong")
	}
}

func TestNamesOfOrgs(t *testing.T) {
	t.Parallel()
	for name, ok := range map[string]bool{"acme": true, "a": true, "acme-2": true, "": false, "Acme": false, "2acme": false, "-a": false, "a-": false, "a_b": false, "a/b": false} {
		if (CheckOrgName(name) == nil) != ok {
			t.Errorf("%q: %v", name, CheckOrgName(name))
		}
	}
}
