package httpapi

import (
	"encoding/json"
	"errors"
	"html/template"
	"io"
	"net/http"
	"net/url"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// maxLoginRequest bounds the body of a request for a login link.
const maxLoginRequest = 4 << 10

// createLogin makes a link that signs one browser in, once: as the caller, or
// as the user that {"user": id or address} names.
func (a *api) createLogin(w http.ResponseWriter, r *http.Request) error {
	var asked struct {
		User string `json:"user"`
	}
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxLoginRequest)).Decode(&asked)
	if err != nil && !errors.Is(err, io.EOF) {
		return nimbus.Errorf(nimbus.CodeInvalid, "the request's body is not JSON that names a user: %w", err)
	}
	code, err := a.Identity.CreateLogin(r.Context(), callerOf(r.Context()).Principal, asked.User)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, map[string]string{"path": "/login?code=" + url.QueryEscape(code)})
}

// login trades the link's code for a cookie.
func (a *api) login(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if r.Method == http.MethodHead {
		return // of who looks whether the link is alive: it must stay so
	}
	session, validFor, err := a.Identity.RedeemLogin(r.Context(), r.URL.Query().Get("code"))
	if err != nil && nimbus.ErrorCode(err) != nimbus.CodeUnauthenticated {
		wire.WriteHTTPError(w, a.judge(r.Context(), r.URL.Path, err))
		return
	}
	if err != nil {
		a.Tally.Denied("", "", "", r.Pattern, nimbus.ErrorCode(err), a.from(r))
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(http.StatusUnauthorized)
		_ = refusedPage.Execute(w, nil) // the reader is gone: nobody to tell
		return
	}
	http.SetCookie(w, a.cookie(session, int(validFor.Seconds())))
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

var refusedPage = template.Must(template.New("").Parse(`<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="dark light"><title>Nimbus</title>
<style>body{font-family:system-ui,sans-serif;max-width:28rem;margin:20vh auto;padding:0 1.5rem;line-height:1.5}</style></head>
<body><h1>This link does not work any more</h1>
<p>A link signs in once, within ten minutes. On the machine that runs Nimbus, ask for another:</p>
<pre>nimbus login</pre></body></html>
`))

func (a *api) logout(w http.ResponseWriter, r *http.Request) error {
	if session := cookie(r); session != "" {
		if err := a.Identity.EndSession(r.Context(), callerOf(r.Context()).Principal, session); err != nil {
			return err
		}
	}
	http.SetCookie(w, a.cookie("", -1))
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *api) cookie(value string, maxAge int) *http.Cookie {
	return &http.Cookie{
		Name: cookieName, Value: value, Path: "/", MaxAge: maxAge, HttpOnly: true, Secure: a.Secure, SameSite: http.SameSiteStrictMode,
	}
}

// me tells a caller who it is, and what it may do where.
func (a *api) me(w http.ResponseWriter, r *http.Request) error {
	type place struct {
		ID   string      `json:"id"`
		Name string      `json:"name"`
		Role nimbus.Role `json:"role"`
	}
	c := callerOf(r.Context())
	orgs := make([]place, len(c.Orgs))
	for i, m := range c.Orgs {
		orgs[i] = place{m.OrgID, m.OrgName, m.Role}
	}
	return writeJSON(w, http.StatusOK, struct {
		Kind     nimbus.PrincipalKind `json:"kind"`
		Subject  string               `json:"subject"`
		Name     string               `json:"name,omitempty"`
		Email    string               `json:"email,omitempty"`
		OrgID    string               `json:"org_id"`
		Role     nimbus.Role          `json:"role,omitempty"`
		Platform bool                 `json:"platform_admin"`
		Scopes   []nimbus.Scope       `json:"scopes,omitempty"`
		Orgs     []place              `json:"orgs"`
	}{c.Kind, c.Subject, c.Name, c.Email, c.org, c.Role, c.Platform, c.Scopes, orgs})
}
