package actions

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
)

var now = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

func secret(b byte) []byte { return bytes.Repeat([]byte{b}, minSecret) }

func newKeys(t testing.TB, current []byte, before ...[]byte) *Keys {
	t.Helper()
	k, err := NewKeys(current, before...)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func granted() Grant {
	return Grant{
		Caller: cache.Caller{
			OrgID: "org_1", Repo: "octo/app", JobID: "job_1",
			Write: "refs/heads/topic", Read: []string{"refs/heads/topic", "refs/heads/main"},
		},
		NotBefore: now, ExpiresAt: now.Add(time.Hour), RunID: "17",
	}
}

func TestATokenSaysWhatWasGranted(t *testing.T) {
	t.Parallel()
	k := newKeys(t, secret(1))
	for name, change := range map[string]func(*Grant){
		"of a branch":      func(*Grant) {},
		"reads only":       func(g *Grant) { g.Caller.Write = "" },
		"writes only":      func(g *Grant) { g.Caller.Read = nil },
		"writes elsewhere": func(g *Grant) { g.Caller.Write = "refs/pull/7/merge" },
		"of the org":       func(g *Grant) { g.Caller.Repo, g.RunID = "", "" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := granted()
			change(&want)
			token, err := k.Mint(want)
			if err != nil {
				t.Fatal(err)
			}
			got, err := k.Verify(token, now)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestClientsCanReadTheToken: they decode it, and stop where a claim is not of the
// type that GitHub's has.
func TestClientsCanReadTheToken(t *testing.T) {
	t.Parallel()
	token, err := newKeys(t, secret(1)).Mint(granted())
	if err != nil {
		t.Fatal(err)
	}
	body, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"iss": "nimbus", "aud": []any{"nimbus-actions"}, "org": "org_1", "repo": "octo/app", "job": "job_1", "run": "17",
		"nbf": float64(now.Unix()), "exp": float64(now.Add(time.Hour).Unix()), "scp": "Actions.Results:17:job_1",
		"ac": `[{"Scope":"refs/heads/topic","Permission":3},{"Scope":"refs/heads/main","Permission":1}]`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestTokensOfOthersAreRefused(t *testing.T) {
	t.Parallel()
	k := newKeys(t, secret(1))
	token, err := k.Mint(granted())
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(token, ".")
	foreign, err := newKeys(t, secret(2)).Mint(granted())
	if err != nil {
		t.Fatal(err)
	}
	// What the same keys signed for something else, or without what a token has.
	other := func(change func(*claims)) string {
		c := claims{RegisteredClaims: jwt.RegisteredClaims{
			Issuer: issuer, Audience: jwt.ClaimStrings{audience}, NotBefore: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(time.Hour)),
		}, Org: "org_1", Access: `[]`}
		change(&c)
		signed, err := jwt.NewWithClaims(jwt.SigningMethodHS256, c).SignedString(k.tokens[0])
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	if _, err := k.Verify(other(func(*claims) {}), now); err != nil {
		t.Fatalf("the token that the others differ from is refused: %v", err)
	}
	unsigned, err := jwt.NewWithClaims(jwt.SigningMethodNone, jwt.MapClaims{"org": "org_1"}).SignedString(jwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		t.Fatal(err)
	}
	longer, err := jwt.NewWithClaims(jwt.SigningMethodHS512, claims{RegisteredClaims: jwt.RegisteredClaims{
		Issuer: issuer, Audience: jwt.ClaimStrings{audience}, NotBefore: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(time.Hour)),
	}, Org: "org_1", Access: `[]`}).SignedString(k.tokens[0])
	if err != nil {
		t.Fatal(err)
	}
	forged := base64.RawURLEncoding.EncodeToString([]byte(`{"org":"org_2","ac":"[]","exp":99999999999,"nbf":0,"iss":"nimbus","aud":["nimbus-actions"]}`))
	for name, bad := range map[string]string{
		"none":                  "",
		"no token":              "nonsense",
		"of another secret":     foreign,
		"unsigned":              unsigned,
		"of another algorithm":  longer,
		"cut":                   token[:len(token)-2],
		"with another body":     parts[0] + "." + forged + "." + parts[2],
		"without a signature":   parts[0] + "." + parts[1] + ".",
		"too long":              token + strings.Repeat("A", maxToken),
		"of another service":    other(func(c *claims) { c.Audience = jwt.ClaimStrings{"nimbus-oidc"} }),
		"of another issuer":     other(func(c *claims) { c.Issuer = "github" }),
		"that never expires":    other(func(c *claims) { c.ExpiresAt = nil }),
		"that has expired":      other(func(c *claims) { c.ExpiresAt = jwt.NewNumericDate(now) }),
		"that is not yet valid": other(func(c *claims) { c.NotBefore = jwt.NewNumericDate(now.Add(time.Second)) }),
		"without an org":        other(func(c *claims) { c.Org = "" }),
		"without scopes":        other(func(c *claims) { c.Access = "" }),
		"with two to write":     other(func(c *claims) { c.Access = `[{"Scope":"a","Permission":2},{"Scope":"b","Permission":3}]` }),
		"with a scope twice":    other(func(c *claims) { c.Access = `[{"Scope":"a","Permission":1},{"Scope":"a","Permission":1}]` }),
		"with an empty scope":   other(func(c *claims) { c.Access = `[{"Scope":"","Permission":1}]` }),
		"with nine scopes": other(func(c *claims) {
			c.Access = "[" + strings.Repeat(`{"Scope":"a","Permission":1},`, 8) + `{"Scope":"b","Permission":1}]`
		}),
		"of a repo in capitals": other(func(c *claims) { c.Repo = "Octo/App" }),
		"of all repos":          other(func(c *claims) { c.Repo = "*" }),
		"of an org of two rows": other(func(c *claims) { c.Org = "org_1\norg_2" }),
	} {
		_, err := k.Verify(bad, now)
		if nimbus.ErrorCode(err) != nimbus.CodeUnauthenticated {
			t.Errorf("a token %s: %v", name, err)
		} else if bad != "" && strings.Contains(err.Error(), bad) {
			t.Errorf("the error about a token %s shows it", name)
		}
	}
}

// TestRotation: while a secret is replaced, what the old one signed is good, and
// the new one signs.
func TestRotation(t *testing.T) {
	t.Parallel()
	before, during, after := newKeys(t, secret(1)), newKeys(t, secret(2), secret(1)), newKeys(t, secret(2))
	for name, c := range map[string]struct {
		minted, read *Keys
		good         bool
	}{
		"old by both":  {before, during, true},
		"both by new":  {during, after, true},
		"both by old":  {during, before, false},
		"old by new":   {before, after, false},
		"both by both": {during, during, true},
	} {
		token, err := c.minted.Mint(granted())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.read.Verify(token, now); (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := NewKeys(secret(1), secret(2), secret(3)); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
		t.Errorf("three secrets: %v", err)
	}
	if _, err := NewKeys(secret(1)[1:]); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
		t.Errorf("a short secret: %v", err)
	}
}

func TestWhatNoTokenSays(t *testing.T) {
	t.Parallel()
	k := newKeys(t, secret(1))
	for name, change := range map[string]func(*Grant){
		"no org":             func(g *Grant) { g.Caller.OrgID = "" },
		"capitals":           func(g *Grant) { g.Caller.Repo = "Octo/app" },
		"all repositories":   func(g *Grant) { g.Caller.Repo = "*" },
		"a scope twice":      func(g *Grant) { g.Caller.Read = []string{"a", "a"} },
		"a scope of nothing": func(g *Grant) { g.Caller.Read = []string{""} },
		"too many scopes":    func(g *Grant) { g.Caller.Read = strings.Split("a,b,c,d,e,f,g,h", ",") },
		"a long scope":       func(g *Grant) { g.Caller.Write = strings.Repeat("x", maxScope+1) },
		"a run of two words": func(g *Grant) { g.RunID = "17 Actions.Results:18" },
		"a run of two parts": func(g *Grant) { g.RunID = "17:18" },
	} {
		g := granted()
		change(&g)
		if token, err := k.Mint(g); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
			t.Errorf("%s: %q, %v", name, token, err)
		}
	}
}
