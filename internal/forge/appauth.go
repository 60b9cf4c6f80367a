package forge

import (
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-github/v92/github"

	nimbus "github.com/nimbus-ci/nimbus"
)

// Times of what calls are signed with.
const (
	// jwtLife is how long a JWT is good for; GitHub takes ten minutes at most.
	// It begins jwtEarly before now, for clocks that are a little ahead.
	jwtLife  = 2 * time.Minute
	jwtEarly = 30 * time.Second
	// tokenEarly is how long before its end an access token is made anew.
	tokenEarly = time.Minute
)

// appAuth makes calls as the App itself.
type appAuth struct {
	id    int64
	key   *rsa.PrivateKey
	clock nimbus.Clock
	next  http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t *appAuth) RoundTrip(r *http.Request) (*http.Response, error) {
	begin := t.clock.Now().Add(-jwtEarly).Truncate(time.Second) // GitHub wants whole seconds
	signed, err := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.RegisteredClaims{
		Issuer:    strconv.FormatInt(t.id, 10),
		IssuedAt:  jwt.NewNumericDate(begin),
		ExpiresAt: jwt.NewNumericDate(begin.Add(jwtLife)),
	}).SignedString(t.key)
	if err != nil {
		return nil, fmt.Errorf("sign as the App: %w", err)
	}
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+signed)
	return t.next.RoundTrip(r)
}

// installationAuth makes calls by an access token of one installation, which it
// keeps until shortly before its end.
type installationAuth struct {
	url   string            // of its access tokens
	app   http.RoundTripper // as the App
	next  http.RoundTripper
	clock nimbus.Clock

	mu    sync.Mutex // held while a token is fetched, so that one is
	token string     // of no particular length
	until time.Time
}

// tokenError is about fetching an access token, that is, trouble with the App
// or its installation and not with the call that wanted it.
type tokenError struct{ err error }

// Error implements error.
func (e *tokenError) Error() string { return "fetch an access token: " + e.err.Error() }

// Unwrap returns the cause.
func (e *tokenError) Unwrap() error { return e.err }

// RoundTrip implements http.RoundTripper.
func (t *installationAuth) RoundTrip(r *http.Request) (*http.Response, error) {
	token, err := t.current(r)
	if err != nil {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, &tokenError{err}
	}
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+token)
	return t.next.RoundTrip(r)
}

// current returns the token that is good now.
func (t *installationAuth) current(r *http.Request) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.clock.Now().Before(t.until) {
		return t.token, nil
	}
	req, err := http.NewRequestWithContext(r.Context(), http.MethodPost, t.url, nil)
	if err != nil {
		return "", fmt.Errorf("make the request: %w", err)
	}
	req.Header.Set("Accept", "application/vnd.github+json")
	req.Header.Set("User-Agent", userAgent)
	resp, err := t.app.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if err := github.CheckResponse(resp); err != nil {
		return "", err
	}
	var answer struct {
		Token     string    `json:"token"`
		ExpiresAt time.Time `json:"expires_at"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxResponse)).Decode(&answer); err != nil || answer.Token == "" {
		return "", fmt.Errorf("GitHub answered without a token: %w", err)
	}
	now := t.clock.Now()
	life := answer.ExpiresAt.Sub(now)
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		life = answer.ExpiresAt.Sub(date) // by GitHub's own clock: ours may be off
	}
	t.token, t.until = answer.Token, now.Add(life-tokenEarly)
	return t.token, nil
}
