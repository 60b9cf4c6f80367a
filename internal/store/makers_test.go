package store_test

import (
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/identity"
)

// makes has a principal make a token, and says who calls with it.
func (d directory) makes(t *testing.T, p nimbus.Principal, asked nimbus.NewToken) (string, nimbus.Token, nimbus.Principal) {
	t.Helper()
	asked.Name = "t"
	secret, made, err := d.CreateToken(t.Context(), p, asked)
	must(t, err)
	return secret, made, d.as(t, secret, p.OrgID)
}

// testMakers: a token ends with the one that it was made with, however far up
// that is, and no later.
func (d directory) testMakers(t *testing.T) {
	ctx := t.Context()
	org := d.in(t, "makers")
	ada := d.joins(t, org, "maker@example.com", nimbus.RoleAdmin)
	robot, err := d.CreateAccount(ctx, ada, "robot", nimbus.RoleViewer)
	must(t, err)
	first, root, p := d.makes(t, ada, nimbus.NewToken{ValidFor: time.Hour})
	child, second, q := d.makes(t, p, nimbus.NewToken{ValidFor: nimbus.MaxTokenFor})
	robots, third, _ := d.makes(t, q, nimbus.NewToken{AccountID: robot.ID})
	for _, made := range []nimbus.Token{second, third} {
		if !made.ExpiresAt.Equal(root.ExpiresAt) {
			t.Errorf("%s ends %s, the first %s", made.ID, made.ExpiresAt, root.ExpiresAt)
		}
	}
	if root.Parent != "" || second.Parent != root.ID || third.Parent != second.ID {
		t.Errorf("made with %q, %q, %q", root.Parent, second.Parent, third.Parent)
	}
	code, err := d.CreateLogin(ctx, q, "")
	must(t, err)
	cookie, validFor, err := d.RedeemLogin(ctx, code)
	must(t, err)
	if validFor > time.Hour {
		t.Errorf("a session of %s by a token of an hour", validFor)
	}
	browser, err := d.AuthenticateSession(ctx, cookie)
	must(t, err)
	browser, _ = browser.In(org.OrgID)
	inBrowser, fourth, _ := d.makes(t, browser, nimbus.NewToken{})
	if fourth.Parent != second.ID || fourth.ExpiresAt.After(root.ExpiresAt) {
		t.Errorf("made in a session: %+v", fourth)
	}
	other, _, _ := d.makes(t, ada, nimbus.NewToken{})

	wantCode(t, d.RevokeToken(ctx, ada, root.ID, second.ID), nimbus.CodeForbidden) // nobody but the platform's may keep one
	must(t, d.RevokeToken(ctx, ada, root.ID, ""))
	for name, secret := range map[string]string{"first": first, "second": child, "the service account's": robots, "made in a session": inBrowser} {
		if _, err := d.Authenticate(ctx, secret); nimbus.ErrorCode(err) != nimbus.CodeUnauthenticated {
			t.Errorf("%s works: %v", name, err)
		}
	}
	_, err = d.AuthenticateSession(ctx, cookie)
	refused(t, err)
	_, _, err = d.CreateToken(ctx, q, nimbus.NewToken{Name: "whose request was on its way"})
	refused(t, err)
	if _, err := d.Authenticate(ctx, other); err != nil {
		t.Errorf("one that was made with none of them: %v", err)
	}

	// Who is taken out takes along what was made with its tokens.
	bob := d.joins(t, org, "leaves@example.com", nimbus.RoleAdmin)
	_, _, p = d.makes(t, bob, nimbus.NewToken{})
	robots, _, _ = d.makes(t, p, nimbus.NewToken{AccountID: robot.ID})
	must(t, d.RemoveMember(ctx, ada, bob.Subject))
	_, err = d.Authenticate(ctx, robots)
	refused(t, err)

	// The line of makers is bounded: to end it takes a statement each.
	_, _, p = d.makes(t, ada, nimbus.NewToken{})
	for range 15 {
		_, _, p = d.makes(t, p, nimbus.NewToken{})
	}
	_, _, p = d.makes(t, p, nimbus.NewToken{})
	_, _, err = d.CreateToken(ctx, p, nimbus.NewToken{Name: "one too many"})
	wantCode(t, err, nimbus.CodeForbidden)
}

// testReplaced: who administers the platform makes another token with its own,
// and ends that without ending the other.
func (d directory) testReplaced(t *testing.T) {
	ctx := t.Context()
	platform := nimbus.NewToken{Platform: true}
	platform.Name = "t"
	_, old, err := d.CreateToken(ctx, identity.Root(), platform)
	must(t, err)
	by, _ := identity.Root().In(nimbus.DefaultOrgID)
	by.TokenID = old.ID
	kept, next, err := d.CreateToken(ctx, by, platform)
	must(t, err)
	gone, _, err := d.CreateToken(ctx, by, platform)
	must(t, err)
	wantCode(t, d.RevokeToken(ctx, by, next.ID, old.ID), nimbus.CodeNotFound) // it wasn't made with it
	must(t, d.RevokeToken(ctx, by, old.ID, next.ID))
	if _, err := d.Authenticate(ctx, kept); err != nil {
		t.Errorf("the one that was kept: %v", err)
	}
	_, err = d.Authenticate(ctx, gone)
	refused(t, err)
	must(t, d.RevokeToken(ctx, by, next.ID, ""))
}

// testMembersTokens: a member's token is made by who administers the platform,
// and is the member's in that org.
func (d directory) testMembersTokens(t *testing.T) {
	ctx := t.Context()
	org := d.in(t, "hands-out")
	ada := d.joins(t, org, "handed@example.com", nimbus.RoleDeveloper)
	_, made, p := d.makes(t, org, nimbus.NewToken{User: "handed@example.com"})
	if p.Subject != ada.Subject || p.Kind != nimbus.PrincipalUser || p.Role != nimbus.RoleDeveloper || p.Platform || made.OrgID != org.OrgID {
		t.Errorf("the member is %+v", p)
	}
	admin := d.joins(t, org, "org-admin@example.com", nimbus.RoleAdmin)
	_, _, err := d.CreateToken(ctx, admin, nimbus.NewToken{Name: "t", User: ada.Subject})
	wantCode(t, err, nimbus.CodeForbidden)
	_, _, err = d.CreateToken(ctx, d.in(t, "hands-out-not"), nimbus.NewToken{Name: "t", User: ada.Subject})
	wantCode(t, err, nimbus.CodeNotFound)
	_, _, err = d.CreateToken(ctx, org, nimbus.NewToken{Name: "t", User: ada.Subject, AccountID: ada.Subject})
	wantCode(t, err, nimbus.CodeInvalid)
}
