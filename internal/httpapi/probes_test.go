package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus/internal/httpapi"
)

// TestReadyz: what is needed decides; what is not is told, to an administrator.
func TestReadyz(t *testing.T) {
	t.Parallel()
	var database, redis atomic.Bool
	check := func(gone *atomic.Bool, what string) func(context.Context) error {
		return func(context.Context) error {
			if gone.Load() {
				return errors.New(what)
			}
			return nil
		}
	}
	p := startPlane(t, func(cfg *httpapi.Config) {
		cfg.Checks = []httpapi.Check{
			{Name: "database", Needed: true, Do: check(&database, "secret place")},
			{Name: "redis", Do: check(&redis, "no answer")},
		}
	})
	type check1 struct {
		Name   string `json:"name"`
		Needed bool   `json:"needed"`
		OK     bool   `json:"ok"`
		Error  string `json:"error"`
	}
	expect := func(what string, status int, word string, checks ...check1) {
		t.Helper()
		if got := p.ask(t, http.MethodGet, "/readyz", ""); got.status != status || got.body != word+"\n" {
			t.Errorf("%s: a stranger is told %d %q", what, got.status, got.body)
		}
		got := p.asAdmin(t, http.MethodGet, "/readyz", "")
		var body struct {
			Status string   `json:"status"`
			Checks []check1 `json:"checks"`
		}
		if err := json.Unmarshal([]byte(got.body), &body); err != nil {
			t.Fatalf("%s: %v in %s", what, err, got.body)
		}
		if diff := cmp.Diff(checks, body.Checks); diff != "" || got.status != status || body.Status != word {
			t.Errorf("%s: an administrator is told %d %s\n%s", what, got.status, body.Status, diff)
		}
	}
	expect("all is well", http.StatusOK, "ready", check1{"database", true, true, ""}, check1{"redis", false, true, ""})
	redis.Store(true)
	expect("Redis is gone", http.StatusOK, "ready", check1{"database", true, true, ""}, check1{"redis", false, false, "no answer"})
	database.Store(true)
	expect("the database is gone", http.StatusServiceUnavailable, "not ready", check1{"database", true, false, "secret place"}, check1{"redis", false, false, "no answer"})
}

// TestAdminFrom: the platform is administered from where it may be, and what is
// in an org from anywhere.
func TestAdminFrom(t *testing.T) {
	t.Parallel()
	proxies, err := httpapi.ParseOrigins([]string{"127.0.0.1"})
	must(t, err)
	office, err := httpapi.ParseOrigins([]string{"192.0.2.0/24"})
	must(t, err)
	p := startPlane(t, func(cfg *httpapi.Config) {
		cfg.Origins = httpapi.Origins{TrustedProxies: proxies, Admin: office}
		cfg.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	})
	platform := map[string]string{
		"GET /metrics": "", "GET /debug/pprof/": "", "GET /debug/pprof/cmdline": "",
		"POST /nimbus.v1.HostService/ListHosts": "{}", "POST /nimbus.v1.HostService/CreateJoinToken": "{}",
		"POST /nimbus.v1.GitHubService/ListApps": "{}",
	}
	for call, body := range platform {
		method, path, _ := strings.Cut(call, " ")
		// The last that no proxy of ours wrote counts, not what is told before.
		for from, allowed := range map[string]bool{"192.0.2.7": true, "198.51.100.1": false, "192.0.2.7, 198.51.100.1": false, "": false} {
			got := p.asAdmin(t, method, path, body, "X-Forwarded-For", from)
			if refused := got.status == http.StatusForbidden; refused == allowed {
				t.Errorf("%s from %q is answered %d %s", call, from, got.status, got.body)
			}
		}
		if got := p.ask(t, method, path, body, "X-Forwarded-For", "192.0.2.7"); got.status != http.StatusUnauthorized {
			t.Errorf("%s without a token is answered %d", call, got.status)
		}
	}
	if got := p.asAdmin(t, http.MethodPost, listJobs, "{}", "X-Forwarded-For", "198.51.100.1"); got.status != http.StatusOK {
		t.Errorf("an org's jobs are answered %d %s", got.status, got.body)
	}
	if got := p.asAdmin(t, http.MethodGet, "/readyz", "", "X-Forwarded-For", "198.51.100.1"); got.body != "ready\n" {
		t.Errorf("from elsewhere an administrator is told %s", got.body)
	}
	host := p.join(t)
	if got := p.ask(t, http.MethodGet, "/metrics", "", "Authorization", "Bearer "+host.token, "X-Forwarded-For", "192.0.2.7"); got.status != http.StatusForbidden {
		t.Errorf("a host reads the metrics: %d", got.status)
	}
}
