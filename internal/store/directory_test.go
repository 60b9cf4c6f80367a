package store_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store"
	"github.com/nimbus-ci/nimbus/internal/store/storetest"
)

// engines open an empty database each.
func engines() map[string]func(*testing.T) string {
	return map[string]func(*testing.T) string{
		"sqlite":   func(t *testing.T) string { return storetest.SQLite(t) },
		"postgres": func(t *testing.T) string { return storetest.Postgres(t) },
	}
}

// TestDirectory runs the same cases on both engines, through the service: what
// matters is who may do what afterwards.
func TestDirectory(t *testing.T) {
	t.Parallel()
	for engine, dsn := range engines() {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			d := directory{open(t, dsn(t)), nil}
			d.Service = identity.New(d.db, nimbus.SystemClock{})
			if _, _, err := d.IssueAdmin(t.Context()); err != nil {
				t.Fatal(err)
			}
			t.Run("orgs", d.testOrgs)
			t.Run("repositories", d.testRepos)
			t.Run("users", d.testUsers)
			t.Run("roles", d.testRoles)
			t.Run("tokens do no more than their makers", d.testTokens)
			t.Run("sessions", d.testSessions)
			t.Run("tokens end with their makers", d.testMakers)
			t.Run("tokens of members", d.testMembersTokens)
			t.Run("pages", d.testPages)
			t.Run("whose things are", d.testOrgOf)
			t.Run("somebody administers the platform", d.testLastAdmin)
			t.Run("an administrator's token is replaced", d.testReplaced)
			t.Run("audit", d.testAudit)
		})
	}
}

type directory struct {
	db *store.Store
	*identity.Service
}

func wantCode(t *testing.T, err error, want nimbus.Code) {
	t.Helper()
	if nimbus.ErrorCode(err) != want {
		t.Errorf("got %v, want the code %q", err, want)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// in is the administrator as it acts in a new org.
func (d directory) in(t *testing.T, name string, owners ...string) nimbus.Principal {
	t.Helper()
	o, err := d.CreateOrg(t.Context(), identity.Root(), name, owners)
	must(t, err)
	p, _ := identity.Root().In(o.ID)
	return p
}

// joins makes a member of an org, and says who calls with its token.
func (d directory) joins(t *testing.T, admin nimbus.Principal, email string, role nimbus.Role) nimbus.Principal {
	t.Helper()
	m, err := d.SetMember(t.Context(), admin, email, "", role)
	must(t, err)
	p, _ := nimbus.Principal{Kind: nimbus.PrincipalUser, Subject: m.UserID, Email: email, Orgs: []nimbus.Membership{m}}.In(admin.OrgID)
	return p
}

// as is who a token stands for, bound to an org.
func (d directory) as(t *testing.T, token, orgID string) nimbus.Principal {
	t.Helper()
	p, err := d.Authenticate(t.Context(), token)
	must(t, err)
	p, ok := p.In(orgID)
	if !ok {
		t.Fatalf("%s may not act in %s", p.Actor(), orgID)
	}
	return p
}

func (d directory) testOrgs(t *testing.T) {
	ctx := t.Context()
	acme := d.in(t, "acme", "Acme-Inc")
	for name, code := range map[string]nimbus.Code{"acme": nimbus.CodeConflict, "Acme": nimbus.CodeInvalid, "": nimbus.CodeInvalid, "-x": nimbus.CodeInvalid, "org_x": nimbus.CodeInvalid, strings.Repeat("x", 41): nimbus.CodeInvalid} {
		_, err := d.CreateOrg(ctx, identity.Root(), name, nil)
		wantCode(t, err, code)
	}
	_, err := d.CreateOrg(ctx, identity.Root(), "thief", []string{"acme-inc"})
	wantCode(t, err, nimbus.CodeConflict)
	if _, err := d.Org(ctx, "thief"); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		t.Errorf("a half-made org is there: %v", err)
	}
	o, err := d.Org(ctx, "acme")
	must(t, err)
	if byID, err := d.Org(ctx, o.ID); err != nil || byID.Name != "acme" || !slices.Equal(byID.Owners, []string{"acme-inc"}) || o.ID != acme.OrgID {
		t.Errorf("%+v, %v", byID, err)
	}
	_, err = d.SetOwners(ctx, identity.Root(), "acme", []string{"acme-labs"})
	must(t, err)
	other, err := d.CreateOrg(ctx, identity.Root(), "other", []string{"acme-inc"}) // free again
	must(t, err)
	_, err = d.SetOwners(ctx, identity.Root(), other.ID, []string{"acme-labs"})
	wantCode(t, err, nimbus.CodeConflict)
	wantCode(t, d.DeleteOrg(ctx, identity.Root(), nimbus.DefaultOrg), nimbus.CodeConflict)

	bound, _ := identity.Root().In(other.ID)
	ada := d.joins(t, bound, "leaver@example.com", nimbus.RoleAdmin)
	secret, _, err := d.CreateToken(ctx, ada, nimbus.NewToken{Name: "t"})
	must(t, err)
	must(t, d.DeleteOrg(ctx, identity.Root(), "other"))
	_, err = d.Authenticate(ctx, secret)
	refused(t, err)
	d.in(t, "other", "acme-inc") // name and owner are free
}

func (d directory) testRepos(t *testing.T) {
	ctx := t.Context()
	one, two := d.in(t, "one", "one-inc"), d.in(t, "two")
	repo := func(name string) (id, orgID string) {
		must(t, d.db.Update(ctx, func(tx scheduler.Tx) (err error) {
			id, orgID, err = tx.Repo(ctx, name)
			return err
		}))
		return id, orgID
	}
	id, org := repo("One-Inc/Thing")
	if org != one.OrgID {
		t.Errorf("the owner's repository is in %s", org)
	}
	if _, org := repo("stranger/thing"); org != nimbus.DefaultOrgID {
		t.Errorf("a stranger's repository is in %s", org)
	}
	wantCode(t, d.DeleteOrg(ctx, identity.Root(), "one"), nimbus.CodeConflict)
	_, err := d.MoveRepo(ctx, identity.Root(), "one-inc/thing", "nowhere")
	wantCode(t, err, nimbus.CodeNotFound)
	_, err = d.MoveRepo(ctx, identity.Root(), "one-inc/none", "two")
	wantCode(t, err, nimbus.CodeNotFound)
	moved, err := d.MoveRepo(ctx, identity.Root(), "One-Inc/thing", "two")
	must(t, err)
	if again, org := repo("one-inc/thing"); again != id || org != two.OrgID || moved.ID != id {
		t.Errorf("after the move %s is in %s", again, org)
	}
	if repos, _, err := d.Repos(ctx, one, nimbus.PageRequest{}); err != nil || len(repos) != 0 {
		t.Errorf("where it was: %v, %v", repos, err)
	}
	if repos, _, err := d.Repos(ctx, two, nimbus.PageRequest{}); err != nil || len(repos) != 1 || repos[0].Name != "one-inc/thing" {
		t.Errorf("where it is: %v, %v", repos, err)
	}
}

func (d directory) testUsers(t *testing.T) {
	ctx := t.Context()
	u, err := d.CreateUser(ctx, identity.Root(), "Ada@Example.com", "Ada", false)
	must(t, err)
	_, err = d.CreateUser(ctx, identity.Root(), "ada@example.com", "", false)
	wantCode(t, err, nimbus.CodeConflict)
	for _, bad := range []string{"", "ada", "Ada <ada@example.com>", "a b@example.com", strings.Repeat("x", 250) + "@example.com"} {
		_, err := d.CreateUser(ctx, identity.Root(), bad, "", false)
		wantCode(t, err, nimbus.CodeInvalid)
	}
	org := d.in(t, "users")
	m, err := d.SetMember(ctx, org, "ADA@example.com", "another name", nimbus.RoleDeveloper)
	if err != nil || m.UserID != u.ID || m.Name != "Ada" {
		t.Errorf("one address is two users: %+v, %v", m, err)
	}
	_, err = d.SetMember(ctx, org, "ada@example.com", "", "owner")
	wantCode(t, err, nimbus.CodeInvalid)
	must(t, d.RemoveUser(ctx, identity.Root(), "ada@example.com"))
	if members, _, err := d.Members(ctx, org, nimbus.PageRequest{}); err != nil || len(members) != 0 {
		t.Errorf("a user who was removed is a member: %v, %v", members, err)
	}
	wantCode(t, d.RemoveUser(ctx, identity.Root(), "ada@example.com"), nimbus.CodeNotFound)
	again, err := d.CreateUser(ctx, identity.Root(), "ada@example.com", "", false)
	if err != nil || again.ID == u.ID || len(again.Orgs) != 0 {
		t.Errorf("the address is not free again: %+v, %v", again, err)
	}
}

// testRoles: a token follows the role of its owner down, and never up.
func (d directory) testRoles(t *testing.T) {
	ctx := t.Context()
	org := d.in(t, "roles")
	ada := d.joins(t, org, "roles@example.com", nimbus.RoleDeveloper)
	secret, _, err := d.CreateToken(ctx, ada, nimbus.NewToken{Name: "t"})
	must(t, err)
	for _, role := range []nimbus.Role{nimbus.RoleDeveloper, nimbus.RoleViewer, nimbus.RoleAdmin} {
		d.joins(t, org, "roles@example.com", role)
		want := role.Least(nimbus.RoleDeveloper)
		if p := d.as(t, secret, org.OrgID); p.Role != want || p.Kind != nimbus.PrincipalUser || p.Email != "roles@example.com" {
			t.Errorf("as %s the token is %+v, want the role %s", role, p, want)
		}
	}
	elsewhere := d.in(t, "elsewhere")
	d.joins(t, elsewhere, "roles@example.com", nimbus.RoleAdmin)
	p, err := d.Authenticate(ctx, secret)
	if _, ok := p.In(elsewhere.OrgID); ok || err != nil {
		t.Errorf("a token of one org acts in another: %v", err)
	}
	must(t, d.RemoveMember(ctx, org, ada.Subject))
	_, err = d.Authenticate(ctx, secret)
	refused(t, err)
	d.joins(t, org, "roles@example.com", nimbus.RoleViewer)
	_, err = d.Authenticate(ctx, secret) // ended with the membership: a new one does not bring it back
	refused(t, err)
}

func (d directory) testTokens(t *testing.T) {
	ctx := t.Context()
	org := d.in(t, "tokens")
	dev, admin := d.joins(t, org, "dev@example.com", nimbus.RoleDeveloper), d.joins(t, org, "admin@example.com", nimbus.RoleAdmin)
	robot, err := d.CreateAccount(ctx, admin, "robot", nimbus.RoleOperator)
	must(t, err)
	_, err = d.CreateAccount(ctx, admin, "robot", nimbus.RoleViewer)
	wantCode(t, err, nimbus.CodeConflict)
	narrow := admin
	narrow.Scopes = []nimbus.Scope{nimbus.ScopeTokensWrite, nimbus.ScopeJobsRead}
	for name, c := range map[string]struct {
		maker nimbus.Principal
		asked nimbus.NewToken
		want  nimbus.Code
	}{
		"more than one's role":             {dev, nimbus.NewToken{Name: "t", Role: nimbus.RoleAdmin}, nimbus.CodeForbidden},
		"a service account's, by no admin": {dev, nimbus.NewToken{Name: "t", AccountID: robot.ID}, nimbus.CodeForbidden},
		"the platform's, by a member":      {admin, nimbus.NewToken{Name: "t", Platform: true}, nimbus.CodeForbidden},
		"more than one's scopes":           {narrow, nimbus.NewToken{Name: "t", Scopes: []nimbus.Scope{nimbus.ScopeJobsWrite}}, nimbus.CodeForbidden},
		"no scope":                         {admin, nimbus.NewToken{Name: "t", Scopes: []nimbus.Scope{"everything"}}, nimbus.CodeInvalid},
		"no role":                          {admin, nimbus.NewToken{Name: "t", Role: "root"}, nimbus.CodeInvalid},
		"no name":                          {admin, nimbus.NewToken{}, nimbus.CodeInvalid},
		"for too long":                     {admin, nimbus.NewToken{Name: "t", ValidFor: nimbus.MaxTokenFor + 1}, nimbus.CodeInvalid},
		"the administrator's own":          {org, nimbus.NewToken{Name: "t"}, nimbus.CodeForbidden},
		"another org's service account":    {admin, nimbus.NewToken{Name: "t", AccountID: nimbus.NewID(nimbus.PrefixAccount, time.Now())}, nimbus.CodeNotFound},
	} {
		if _, _, err := d.CreateToken(ctx, c.maker, c.asked); nimbus.ErrorCode(err) != c.want {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	secret, made, err := d.CreateToken(ctx, narrow, nimbus.NewToken{Name: "inherits"})
	must(t, err)
	if p := d.as(t, secret, org.OrgID); !p.May(nimbus.ScopeJobsRead) || p.May(nimbus.ScopeJobsWrite) || made.ExpiresAt.IsZero() {
		t.Errorf("made with scopes, without asking for some: %+v", p)
	}
	secret, made, err = d.CreateToken(ctx, admin, nimbus.NewToken{Name: "robot's", AccountID: robot.ID})
	must(t, err)
	if p := d.as(t, secret, org.OrgID); p.Kind != nimbus.PrincipalAccount || p.Role != nimbus.RoleOperator || p.Subject != robot.ID {
		t.Errorf("the service account is %+v", p)
	}
	wantCode(t, d.RevokeToken(ctx, dev, made.ID, ""), nimbus.CodeNotFound) // not its own
	if own, _, err := d.ListTokens(ctx, dev, false, nimbus.PageRequest{}); err != nil || len(own) != 0 {
		t.Errorf("who made no tokens sees %v, %v", own, err)
	}
	all, _, err := d.ListTokens(ctx, admin, false, nimbus.PageRequest{})
	if err != nil || len(all) != 2 {
		t.Errorf("an admin sees %v, %v", all, err)
	}
	must(t, d.RevokeToken(ctx, admin, made.ID, ""))
	_, err = d.Authenticate(ctx, secret)
	refused(t, err)
	wantCode(t, d.RevokeToken(ctx, admin, made.ID, ""), nimbus.CodeNotFound)
}

// testSessions: a session is its user's, does no more than the token that it
// was made with, and ends with it.
func (d directory) testSessions(t *testing.T) {
	ctx := t.Context()
	org := d.in(t, "sessions")
	ada := d.joins(t, org, "session@example.com", nimbus.RoleAdmin)
	session := func(by nimbus.Principal, user string) nimbus.Principal {
		t.Helper()
		code, err := d.CreateLogin(ctx, by, user)
		must(t, err)
		cookie, _, err := d.RedeemLogin(ctx, code)
		must(t, err)
		p, err := d.AuthenticateSession(ctx, cookie)
		must(t, err)
		return p
	}
	if p := session(identity.Root(), "session@example.com"); p.Subject != ada.Subject || p.Platform || len(p.Orgs) != 1 || p.Orgs[0].Role != nimbus.RoleAdmin {
		t.Errorf("signed in as a user: %+v", p)
	}
	if p := session(identity.Root(), ""); !p.Platform || p.Kind != nimbus.PrincipalAdmin {
		t.Errorf("signed in as the administrator: %+v", p)
	}
	secret, made, err := d.CreateToken(ctx, ada, nimbus.NewToken{Name: "t", Role: nimbus.RoleViewer, Scopes: []nimbus.Scope{nimbus.ScopeJobsRead}})
	must(t, err)
	by := d.as(t, secret, org.OrgID)
	if p := session(by, ""); p.Orgs[0].Role != nimbus.RoleViewer || p.May(nimbus.ScopeJobsWrite) || p.Subject != ada.Subject {
		t.Errorf("a session does more than its token: %+v", p)
	}
	_, err = d.CreateLogin(ctx, by, "other@example.com")
	wantCode(t, err, nimbus.CodeForbidden)
	_, err = d.CreateLogin(ctx, session(by, ""), "")
	wantCode(t, err, nimbus.CodeForbidden)

	code, err := d.CreateLogin(ctx, by, "")
	must(t, err)
	kept, err := d.CreateLogin(ctx, by, "")
	must(t, err)
	cookie, _, err := d.RedeemLogin(ctx, code)
	must(t, err)
	must(t, d.RevokeToken(ctx, ada, made.ID, ""))
	_, err = d.AuthenticateSession(ctx, cookie)
	refused(t, err)
	_, _, err = d.RedeemLogin(ctx, kept)
	refused(t, err)
	_, err = d.CreateLogin(ctx, by, "") // whose request was on its way
	refused(t, err)
}

func (d directory) testPages(t *testing.T) {
	ctx := t.Context()
	org := d.in(t, "pages")
	for i := range 5 {
		_, err := d.CreateAccount(ctx, org, strings.Repeat("x", i+1), nimbus.RoleViewer)
		must(t, err)
	}
	var names []string
	for token, pages := "", 1; ; pages++ {
		accounts, next, err := d.Accounts(ctx, org, nimbus.PageRequest{Size: 2, Token: token})
		must(t, err)
		for _, a := range accounts {
			names = append(names, a.Name)
		}
		if token = next; next == "" {
			if pages != 3 {
				t.Errorf("five in pages of two are %d pages", pages)
			}
			break
		}
	}
	slices.Sort(names)
	if len(slices.Compact(names)) != 5 {
		t.Errorf("the pages have %v", names)
	}
}

// testOrgOf: the ledger asks whose a thing is that somebody else asked for.
func (d directory) testOrgOf(t *testing.T) {
	ctx := t.Context()
	org := d.in(t, "owner", "owner-inc")
	admin := d.joins(t, org, "owner@example.com", nimbus.RoleAdmin)
	robot, err := d.CreateAccount(ctx, admin, "robot", nimbus.RoleViewer)
	must(t, err)
	_, token, err := d.CreateToken(ctx, admin, nimbus.NewToken{Name: "own"})
	must(t, err)
	var repo string
	must(t, d.db.Update(ctx, func(tx scheduler.Tx) (err error) {
		repo, _, err = tx.Repo(ctx, "owner-inc/thing")
		return err
	}))
	for thing, want := range map[string]string{
		robot.ID: org.OrgID, token.ID: org.OrgID, repo: org.OrgID, "owner-inc/thing": org.OrgID, org.OrgID: org.OrgID, "owner": org.OrgID,
		admin.Subject: "", "": "", "owner-inc": "", "a\x00\xff": "", nimbus.NewID(nimbus.PrefixJob, time.Now()): "",
		"owner" + strings.Repeat("x", 1<<20): "",
	} {
		if got, err := d.OrgOf(ctx, thing); err != nil || got != want {
			t.Errorf("%.40q is of %q, %v, not of %q", thing, got, err, want)
		}
	}
}

func (d directory) testLastAdmin(t *testing.T) {
	ctx := t.Context()
	tokens, _, err := d.ListTokens(ctx, identity.Root(), true, nimbus.PageRequest{})
	if err != nil || len(tokens) != 1 {
		t.Fatalf("the platform's tokens: %v, %v", tokens, err)
	}
	wantCode(t, d.RevokeToken(ctx, identity.Root(), tokens[0].ID, ""), nimbus.CodeConflict)
	u, err := d.CreateUser(ctx, identity.Root(), "platform@example.com", "", true)
	must(t, err)
	must(t, d.RevokeToken(ctx, identity.Root(), tokens[0].ID, ""))
	_, err = d.SetPlatformAdmin(ctx, identity.Root(), u.Email, false)
	wantCode(t, err, nimbus.CodeConflict)
	wantCode(t, d.RemoveUser(ctx, identity.Root(), u.ID), nimbus.CodeConflict)
	if _, created, err := d.IssueAdmin(ctx); err != nil || created {
		t.Errorf("the next start makes another administrator: %v, %v", created, err)
	}
	secret, _, err := d.CreateToken(ctx, nimbus.Principal{Kind: nimbus.PrincipalUser, Subject: u.ID, Platform: true}, nimbus.NewToken{Name: "own", Platform: true})
	must(t, err)
	if p, err := d.Authenticate(ctx, secret); err != nil || !p.Platform || p.Subject != u.ID {
		t.Errorf("%+v, %v", p, err)
	}
	_, err = d.CreateUser(ctx, identity.Root(), "second@example.com", "", true)
	must(t, err)
	_, err = d.SetPlatformAdmin(ctx, identity.Root(), u.ID, false)
	must(t, err)
	_, err = d.Authenticate(ctx, secret)
	refused(t, err)
}

// testAudit: whatever was granted or taken away here is in the outbox, once for
// each effect, and nothing for what was refused.
func (d directory) testAudit(t *testing.T) {
	ctx := t.Context()
	counted := func() map[string]int {
		out := map[string]int{}
		events, err := d.db.PendingAudit(ctx)
		must(t, err)
		for _, e := range events {
			out[e.Action]++
			if e.Actor == "" || e.Target == "" || e.Outcome != nimbus.AuditAllowed {
				t.Errorf("%+v", e)
			}
		}
		return out
	}
	before := counted()
	for _, action := range []string{"token.create", "token.revoke", "login.create", "session.create", "org.create", "org.owners", "org.delete", "repo.move",
		"user.create", "user.platform", "user.remove", "member.set", "member.remove", "account.create"} {
		if before[action] == 0 {
			t.Errorf("nothing tells of %s", action)
		}
	}
	org := d.in(t, "audited")
	_, _, err1 := d.CreateToken(ctx, org, nimbus.NewToken{Name: "t"})
	_, err2 := d.CreateOrg(ctx, identity.Root(), "audited", nil)
	if err1 == nil || err2 == nil {
		t.Fatal("they aren't refused")
	}
	after := counted()
	if after["org.create"] != before["org.create"]+1 || after["token.create"] != before["token.create"] {
		t.Errorf("before %v, after %v", before, after)
	}
	h := nimbus.NewID(nimbus.PrefixHost, time.Now())
	must(t, d.db.Update(ctx, func(tx scheduler.Tx) error {
		return errors.Join(tx.InsertHost(ctx, nimbus.Host{ID: h, Name: "h"}),
			tx.Audit(ctx, nimbus.AuditEvent{Actor: "a", Action: "host.cordon", Target: h, Outcome: nimbus.AuditAllowed}))
	}))
	failed := errors.New("undone")
	err := d.db.Update(ctx, func(tx scheduler.Tx) error {
		return errors.Join(tx.Audit(ctx, nimbus.AuditEvent{Actor: "a", Action: "host.remove", Target: h, Outcome: nimbus.AuditAllowed}), failed)
	})
	if !errors.Is(err, failed) {
		t.Fatal(err)
	}
	if now := counted(); now["host.cordon"] != 1 || now["host.remove"] != 0 {
		t.Errorf("the ledger does not go with its transaction: %v", now)
	}
}
