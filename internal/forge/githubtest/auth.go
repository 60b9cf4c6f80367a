package githubtest

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// authority is what an operation wants its caller to be.
type authority int

// The authorities.
const (
	anybody        authority = iota
	asApp                    // a JWT signed with the App's key
	asInstallation           // an access token of the installation
)

// authorityFor follows GitHub's documentation: what is about the App itself
// takes a JWT only, what is about repositories takes access tokens only.
func authorityFor(path string) authority {
	switch {
	case path == "/meta" || path == "/rate_limit" || strings.HasPrefix(path, "/app-manifests/"):
		return anybody
	case path == "/app" || strings.HasPrefix(path, "/app/") || strings.HasSuffix(path, "/installation"):
		return asApp
	}
	return asInstallation
}

// authorize checks the Authorization header. s.mu is held.
func (s *Server) authorize(want authority, r *http.Request) error {
	scheme, value, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	bearer := strings.EqualFold(scheme, "Bearer")
	switch want {
	case anybody:
		return nil
	case asApp:
		if !bearer {
			return &apiError{status: http.StatusUnauthorized, message: "A JSON web token could not be decoded"}
		}
		return s.checkJWT(value)
	}
	end, ok := s.tokens[value]
	if !ok || !bearer && !strings.EqualFold(scheme, "token") || !s.now().Before(end) {
		return &apiError{status: http.StatusUnauthorized, message: "Bad credentials"}
	}
	if s.suspended {
		return &apiError{status: http.StatusForbidden, message: "This installation has been suspended"}
	}
	if !s.permits(r) {
		return &apiError{status: http.StatusForbidden, message: "Resource not accessible by integration"}
	}
	return nil
}

// permits tells whether the App's permissions allow a call about a repository.
func (s *Server) permits(r *http.Request) bool {
	var name string
	want := "read"
	switch {
	case strings.HasPrefix(r.URL.Path, "/orgs/") && strings.Contains(r.URL.Path, "/actions/runner"):
		name = "organization_self_hosted_runners"
	case strings.Contains(r.URL.Path, "/actions/runners"):
		name = "administration"
	case strings.Contains(r.URL.Path, "/actions/"):
		name = "actions"
	default:
		return true
	}
	if r.Method != http.MethodGet {
		want = "write"
	}
	have := s.granted[name]
	return have == want || have == "write"
}

// checkJWT wants RS256 by the App's key, iss the App, iat not in the future,
// and exp neither past nor more than 10 minutes ahead.
func (s *Server) checkJWT(token string) error {
	refuse := func(message string) error {
		return &apiError{status: http.StatusUnauthorized, message: message}
	}
	var claims jwt.RegisteredClaims
	_, err := jwt.ParseWithClaims(token, &claims, func(*jwt.Token) (any, error) { return &s.cfg.Key.PublicKey, nil },
		jwt.WithValidMethods([]string{"RS256"}), jwt.WithTimeFunc(s.now), jwt.WithIssuedAt(), jwt.WithExpirationRequired())
	if err != nil {
		return refuse("A JSON web token could not be decoded: " + err.Error())
	}
	switch {
	case claims.Issuer != strconv.FormatInt(s.cfg.AppID, 10):
		return refuse("'Issuer' claim ('iss') must be an Integer or the client id of the App")
	case claims.IssuedAt == nil:
		return refuse("Missing 'issued at' claim ('iat') in assertion")
	case claims.ExpiresAt.Sub(s.now()) > 10*time.Minute:
		return refuse("'Expiration time' claim ('exp') is too far in the future")
	}
	return nil
}

// newToken makes an access token of the length that GitHub's have since 2026,
// so that nobody assumes 40 characters. s.mu is held.
func (s *Server) newToken() (token string, end time.Time) {
	var tail strings.Builder
	for tail.Len() < 500 {
		tail.WriteString(rand.Text())
	}
	token = fmt.Sprintf("ghs_%d_%s", s.cfg.AppID, tail.String())
	end = s.now().Add(tokenLife).Truncate(time.Second)
	s.tokens[token] = end
	for other, end := range s.tokens { // those long dead
		if s.now().Sub(end) > tokenLife {
			delete(s.tokens, other)
		}
	}
	return token, end
}
