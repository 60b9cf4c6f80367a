package httpapi

import (
	"html/template"
	"net/http"
	"net/url"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// createLogin makes a link that signs one browser in, once.
func (a *api) createLogin(w http.ResponseWriter, r *http.Request) error {
	code, err := a.Identity.CreateLogin(r.Context())
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
		if err := a.Identity.EndSession(r.Context(), session); err != nil {
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

// me tells a caller who it is.
func (a *api) me(w http.ResponseWriter, r *http.Request) error {
	c := callerOf(r.Context())
	return writeJSON(w, http.StatusOK, map[string]string{"kind": string(c.Kind), "subject": c.Subject, "org_id": c.org})
}
