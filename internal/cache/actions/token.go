package actions

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
)

const (
	issuer   = "nimbus"
	audience = "nimbus-actions"
	maxToken = 16 << 10 // bytes: eight scopes of the longest branch names fit
	maxScope = 1 << 10  // bytes of a scope
)

// Grant is what a token says.
type Grant struct {
	Caller    cache.Caller
	NotBefore time.Time
	ExpiresAt time.Time
	// RunID names the run whose artifacts the job sees; "" for none. Clients read
	// it, with the job's, out of the token.
	RunID string
}

// claims are a token's. Clients decode `ac` and `scp`, and check neither the
// signature nor the rest.
type claims struct {
	jwt.RegisteredClaims

	Org   string `json:"org"`
	Repo  string `json:"repo,omitempty"`
	Job   string `json:"job,omitempty"`
	Run   string `json:"run,omitempty"`
	Scope string `json:"scp,omitempty"`
	// Access is JSON in a string, as GitHub has it.
	Access string `json:"ac"`
}

// access is an element of the claim `ac`. Its order is that of look-ups.
type access struct {
	Scope      string `json:"Scope"`
	Permission int    `json:"Permission"`
}

const (
	mayRead  = 1
	mayWrite = 2
)

// Mint makes a token. Codes: invalid.
func (k *Keys) Mint(g Grant) (string, error) {
	if err := g.check(); err != nil {
		return "", err
	}
	list, err := json.Marshal(accessOf(g.Caller))
	if err != nil {
		return "", fmt.Errorf("write the scopes of a token: %w", err)
	}
	c := claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: issuer, Audience: jwt.ClaimStrings{audience},
			// Clients want both, as numbers.
			NotBefore: jwt.NewNumericDate(g.NotBefore), ExpiresAt: jwt.NewNumericDate(g.ExpiresAt),
		},
		Org: g.Caller.OrgID, Repo: g.Caller.Repo, Job: g.Caller.JobID, Run: g.RunID, Access: string(list),
	}
	if g.RunID != "" {
		c.Scope = "Actions.Results:" + g.RunID + ":" + g.Caller.JobID
	}
	signed, err := jwt.NewWithClaims(jwt.SigningMethodHS256, c).SignedString(k.tokens[0])
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	if len(signed) > maxToken {
		return "", nimbus.Errorf(nimbus.CodeInvalid, "the token would have %d bytes, more than %d", len(signed), maxToken)
	}
	return signed, nil
}

// Verify reads a token that Mint made. Its errors never hold the token. Codes:
// unauthenticated.
func (k *Keys) Verify(token string, now time.Time) (Grant, error) {
	if len(token) > maxToken {
		return Grant{}, nimbus.Errorf(nimbus.CodeUnauthenticated, "the token is too long to be one of ours")
	}
	var c claims
	_, err := jwt.ParseWithClaims(token, &c,
		func(*jwt.Token) (any, error) { return jwt.VerificationKeySet{Keys: k.tokens}, nil },
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}), jwt.WithIssuer(issuer), jwt.WithAudience(audience),
		jwt.WithExpirationRequired(), jwt.WithNotBeforeRequired(), jwt.WithTimeFunc(func() time.Time { return now }))
	if err != nil {
		return Grant{}, nimbus.Errorf(nimbus.CodeUnauthenticated, "the token is not valid: it has expired, or is none of ours").
			WithHint("a job's token ends with the job")
	}
	g := Grant{
		Caller: cache.Caller{OrgID: c.Org, Repo: c.Repo, JobID: c.Job}, RunID: c.Run,
		NotBefore: c.NotBefore.UTC(), ExpiresAt: c.ExpiresAt.UTC(),
	}
	var list []access
	if err := json.Unmarshal([]byte(c.Access), &list); err != nil {
		return Grant{}, nimbus.Errorf(nimbus.CodeUnauthenticated, "the token names no scopes")
	}
	for _, a := range list {
		if a.Permission&mayRead != 0 {
			g.Caller.Read = append(g.Caller.Read, a.Scope)
		}
		if a.Permission&mayWrite == 0 {
			continue
		}
		if g.Caller.Write != "" {
			return Grant{}, nimbus.Errorf(nimbus.CodeUnauthenticated, "the token writes to two scopes")
		}
		g.Caller.Write = a.Scope
	}
	// What was signed was checked by then, maybe by an older release.
	if err := g.check(); err != nil {
		return Grant{}, nimbus.Errorf(nimbus.CodeUnauthenticated, "the token says what no token may: %w", err)
	}
	return g, nil
}

// accessOf is what a token says of a caller: the scopes that it reads, in their
// order, and the one that it writes.
func accessOf(c cache.Caller) []access {
	list := make([]access, 0, len(c.Read)+1)
	for _, scope := range c.Read {
		a := access{scope, mayRead}
		if scope == c.Write {
			a.Permission |= mayWrite
		}
		list = append(list, a)
	}
	if c.Write != "" && !slices.Contains(c.Read, c.Write) {
		list = append(list, access{c.Write, mayWrite})
	}
	return list
}

// check refuses what no token says.
func (g Grant) check() error {
	c := g.Caller
	for what, text := range map[string]string{"org": c.OrgID, "repository": c.Repo, "job": c.JobID, "run": g.RunID} {
		// A line break would end a line of what a URL's signature is over, and a colon
		// or a space an item of `scp`.
		if strings.ContainsAny(text, " :\r\n\x00") || len(text) > maxScope {
			return nimbus.Errorf(nimbus.CodeInvalid, "the token's %s is %.100q", what, text)
		}
	}
	if c.OrgID == "" {
		return nimbus.Errorf(nimbus.CodeInvalid, "the token names no org")
	}
	if c.Repo != "" && (!nimbus.ValidRepo(c.Repo) || c.Repo != strings.ToLower(c.Repo)) {
		return nimbus.Errorf(nimbus.CodeInvalid, "the token's repository %.100q is none, or not in lower case", c.Repo)
	}
	scopes := accessOf(c)
	if len(scopes) > cache.MaxScopes {
		return nimbus.Errorf(nimbus.CodeInvalid, "the token has %d scopes, more than %d", len(scopes), cache.MaxScopes)
	}
	for i, a := range scopes {
		if a.Scope == "" || len(a.Scope) > maxScope || strings.ContainsAny(a.Scope, "\r\n\x00") {
			return nimbus.Errorf(nimbus.CodeInvalid, "the token's scope is %.100q", a.Scope)
		}
		if slices.ContainsFunc(scopes[:i], func(b access) bool { return a.Scope == b.Scope }) {
			return nimbus.Errorf(nimbus.CodeInvalid, "the token names the scope %.100q twice", a.Scope)
		}
	}
	return nil
}

// grant is what the token of a request says, once its holder was admitted.
func (h *handler) grant(r *http.Request) (Grant, error) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return Grant{}, nimbus.Errorf(nimbus.CodeUnauthenticated, "the call has no token").
			WithHint("clients send what is in ACTIONS_RUNTIME_TOKEN")
	}
	g, err := h.Keys.Verify(token, h.Clock.Now())
	if err != nil {
		return Grant{}, err
	}
	return g, h.Admit(r.Context(), g.Caller)
}
