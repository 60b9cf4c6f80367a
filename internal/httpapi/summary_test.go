package httpapi_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// summaryCount is that of the API; what is 0 is absent.
type summaryCount struct {
	Jobs      int `json:"jobs"`
	Succeeded int `json:"succeeded"`
	Failed    int `json:"failed"`
	Cancelled int `json:"cancelled"`
	Open      int `json:"open"`
}

type summaryOutcome struct {
	Count summaryCount `json:"count"`
	Runs  int          `json:"runs"`
	P50   string       `json:"p50"`
	Trend []struct {
		Count summaryCount `json:"count"`
	} `json:"trend"`
}

type summaryAnswer struct {
	All    summaryOutcome `json:"all"`
	Values []struct {
		Value   string         `json:"value"`
		Outcome summaryOutcome `json:"outcome"`
	} `json:"values"`
	Keys []struct {
		Key    string `json:"key"`
		Jobs   int    `json:"jobs"`
		Values int    `json:"values"`
	} `json:"keys"`
}

// TestSummariesAreOfOneOrg: how its jobs went, by what their labels and
// submissions keep with them, and nothing of another's.
func TestSummariesAreOfOneOrg(t *testing.T) {
	t.Parallel()
	for engine, start := range map[string]func(*testing.T) *plane{
		"sqlite":   func(t *testing.T) *plane { t.Helper(); return startPlane(t) },
		"postgres": startReplica,
	} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			p := start(t)
			acme, globex := newTenant(t, p, "acme"), newTenant(t, p, "globex")
			submit := func(tn tenant, labels []string, metadata map[string]string) nimbus.Job {
				t.Helper()
				j, err := p.scheduler.Submit(t.Context(), tn.admin, scheduler.Submission{Class: nimbus.Class{Executor: nimbus.ExecutorLocal},
					Spec: nimbus.Spec{Command: []string{"true"}}, Labels: labels, Metadata: metadata})
				must(t, err)
				return j
			}
			finish := func(h hostPlayer, r nimbus.Result) {
				t.Helper()
				_, err := h.FinishAttempt(t.Context(), connect.NewRequest(&nimbusv1.FinishAttemptRequest{
					Lease: h.accept(t), Outcome: &nimbusv1.Outcome{Result: wire.Result(r)}}))
				must(t, err)
			}
			submit(acme, []string{"param:model=Llama-3"}, nil)
			finish(acme.host, nimbus.ResultSuccess)
			submit(acme, nil, map[string]string{"model": "Llama-3", "seed": "7"})
			finish(acme.host, nimbus.ResultFailure)
			gone := submit(acme, []string{"meta:model"}, nil)
			_, err := p.scheduler.Cancel(t.Context(), acme.admin, acme.org.ID, gone.ID)
			must(t, err)
			submit(globex, nil, map[string]string{"model": "secret", "project-x": ""})

			viewer := func(tn tenant) []string {
				return bearer(token(t, p, member(t, p, tn, "v@"+tn.org.Name+".example", nimbus.RoleViewer), nimbus.NewToken{Name: "own"}))
			}
			ask := func(body string, headers []string) (a summaryAnswer) {
				t.Helper()
				got := p.ask(t, http.MethodPost, "/nimbus.v1.JobService/SummarizeJobs", body, headers...)
				if got.status != http.StatusOK {
					t.Fatalf("%s: %d %s", body, got.status, got.body)
				}
				must(t, json.Unmarshal([]byte(got.body), &a))
				return a
			}
			mine, theirs := viewer(acme), viewer(globex)
			a := ask(`{"key":"model","bucket":"JOB_BUCKET_HOUR"}`, mine)
			if len(a.Values) != 2 || a.Values[0].Value != "Llama-3" || a.Values[0].Outcome.Count != (summaryCount{Jobs: 2, Succeeded: 1, Failed: 1}) ||
				a.Values[0].Outcome.Runs != 2 || a.Values[0].Outcome.P50 == "" || a.Values[1].Value != "" || a.Values[1].Outcome.Count != (summaryCount{Jobs: 1, Cancelled: 1}) ||
				a.All.Count != (summaryCount{Jobs: 3, Succeeded: 1, Failed: 1, Cancelled: 1}) || len(a.Keys) != 0 {
				t.Errorf("by model: %+v", a)
			}
			sum := 0
			for _, part := range a.All.Trend {
				sum += part.Count.Jobs
			}
			if n := len(a.All.Trend); n < 168 || n > 169 || sum != 3 {
				t.Errorf("its trend has %d hours with %d jobs", n, sum)
			}
			if a := ask(`{"key":"model","metadata":{"seed":""}}`, mine); a.All.Count != (summaryCount{Jobs: 1, Failed: 1}) {
				t.Errorf("by model, with a seed: %+v", a.All.Count)
			}
			a = ask(`{}`, mine)
			if a.All.Count.Jobs != 5 || len(a.Keys) != 2 || a.Keys[0].Key != "model" || a.Keys[0].Jobs != 3 || a.Keys[0].Values != 2 || a.Keys[1].Key != "seed" {
				t.Errorf("of all: %+v", a)
			}
			if a = ask(`{"repo":"acme/project"}`, mine); a.All.Count != (summaryCount{Jobs: 1, Open: 1}) {
				t.Errorf("of the repository: %+v", a.All.Count)
			}
			if a = ask(`{"repo":"acme/project"}`, theirs); a.All.Count.Jobs != 0 {
				t.Errorf("of another's repository: %+v", a.All.Count)
			}
			if a = ask(`{"key":"model"}`, theirs); len(a.Values) != 1 || a.Values[0].Value != "secret" {
				t.Errorf("another org's: %+v", a)
			}
			body := `{"key":"project-x"}`
			if a = ask(body, mine); a.All.Count.Jobs != 0 || len(a.Values) != 0 {
				t.Errorf("by another org's key: %+v", a)
			}
			if got := p.ask(t, http.MethodPost, "/nimbus.v1.JobService/SummarizeJobs", body, append(mine, wire.OrgHeader, globex.org.ID)...); got.status < 400 {
				t.Errorf("in another org: %d %s", got.status, got.body)
			}
			for body, hint := range map[string]string{
				`{"key":"a b"}`: "a key has lower case letters",
				`{"since":"2026-01-01T00:00:00Z","until":"2025-12-31T00:00:00Z"}`:                            "before until",
				`{"since":"2025-01-01T00:00:00Z","until":"2025-12-31T00:00:00Z"}`:                            "later time",
				`{"since":"2025-01-01T00:00:00Z","until":"2025-01-09T00:00:00Z","bucket":"JOB_BUCKET_HOUR"}`: "ask for days",
				`{"bucket":7}`: "",
			} {
				got := p.ask(t, http.MethodPost, "/nimbus.v1.JobService/SummarizeJobs", body, mine...)
				told, err := url.QueryUnescape(got.header.Get("Nimbus-Hint"))
				must(t, err)
				if got.status != http.StatusBadRequest || !strings.Contains(told, hint) {
					t.Errorf("%s: %d, hint %q", body, got.status, told)
				}
			}
		})
	}
}
