package httpapi

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/pprof"
	"strings"
	"sync"

	"github.com/nimbus-ci/nimbus"
)

// Check is one thing that is looked at to tell whether a server is well.
type Check struct {
	Name string
	// Needed says that requests can't be answered without it. What is not
	// needed only makes things slower while it is gone.
	Needed bool
	// Do returns nil when all is well, within the time that ctx gives.
	Do func(ctx context.Context) error
}

// checked is what a check found, as an administrator reads it.
type checked struct {
	Name   string `json:"name"`
	Needed bool   `json:"needed"`
	OK     bool   `json:"ok"`
	Error  string `json:"error,omitempty"`
}

// alive tells that the process answers; whether it is of use is for ready.
func alive(w http.ResponseWriter, _ *http.Request) { write(w, http.StatusOK, "ok") }

// ready tells whether requests should be sent here. Strangers get a word, an
// administrator what was looked at.
func (a *api) ready(w http.ResponseWriter, r *http.Request) {
	status, word := http.StatusOK, "ready"
	found := a.runChecks(r.Context())
	for _, c := range found {
		if c.Needed && !c.OK {
			status, word = http.StatusServiceUnavailable, "not ready"
		}
	}
	if !a.administers(r) {
		write(w, status, word)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"status": word, "checks": found}) // the caller is gone: nobody to tell
}

func (a *api) runChecks(ctx context.Context) []checked {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	found := make([]checked, len(a.Checks))
	var running sync.WaitGroup
	for i, check := range a.Checks {
		running.Go(func() {
			found[i] = checked{Name: check.Name, Needed: check.Needed, OK: true}
			if err := check.Do(ctx); err != nil {
				found[i].OK, found[i].Error = false, err.Error()
				a.Log.WarnContext(ctx, "a check failed", "check", check.Name, "error", err)
			}
		})
	}
	running.Wait()
	return found
}

// administers tells whether an administrator asks, from where one may.
func (a *api) administers(r *http.Request) bool {
	if r.Header.Get("Authorization") == "" && cookie(r) == "" {
		return false
	}
	to := onPlatform(nimbus.ScopeMetricsRead)
	c, err := a.allow(r, to)
	if err != nil {
		a.refused(r, c, r.Pattern, to, err, false)
	}
	return err == nil && a.Origins.admit(r) == nil
}

func write(w http.ResponseWriter, status int, word string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(word + "\n")) // the caller is gone: nobody to tell
}

// profile takes profiles of this process, for `go tool pprof`.
func (a *api) profile(w http.ResponseWriter, r *http.Request) error {
	switch strings.TrimPrefix(r.URL.Path, "/debug/pprof/") {
	case "cmdline":
		pprof.Cmdline(w, r)
	case "profile":
		pprof.Profile(w, r)
	case "symbol":
		pprof.Symbol(w, r)
	case "trace":
		pprof.Trace(w, r)
	default:
		pprof.Index(w, r)
	}
	return nil
}

// metrics answers with the metrics of this process.
func (a *api) metrics(w http.ResponseWriter, r *http.Request) error {
	if a.Metrics == nil {
		return nimbus.Errorf(nimbus.CodeNotFound, "this server has no metrics")
	}
	a.Metrics.ServeHTTP(w, r)
	return nil
}
