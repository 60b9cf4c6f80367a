package host_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// ask makes one request and returns the status and the body.
func ask(t *testing.T, method, url, body string, headers map[string]string) (int, string, http.Header) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	must(t, err)
	for k, v := range headers {
		r.Header.Set(k, v)
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	answer, err := client.Do(r)
	must(t, err)
	defer answer.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	must(t, err)
	return answer.StatusCode, string(raw), answer.Header
}

// jobTokens are those of a job that is accepted, and of one that runs.
func (p *plane) jobTokens(t *testing.T) (accepted, running string) {
	t.Helper()
	ctx := t.Context()
	h, err := p.scheduler.RegisterHost(ctx, "of-jobs", "test", nimbus.Inventory{Arch: "amd64", CPUs: 2, MemoryMiB: 2048,
		Executors: []nimbus.ExecutorStatus{{Name: nimbus.ExecutorLocal, Available: true}}})
	must(t, err)
	p.submit(t, "true")
	p.submit(t, "true")
	var tokens []string
	for len(tokens) < 2 {
		work, err := p.scheduler.Poll(ctx, h.ID, nimbus.Capacity{CPUs: 2, MemoryMiB: 2048, Sandboxes: 2}, 10*time.Second)
		must(t, err)
		for _, o := range work.Offers {
			as, err := p.scheduler.Accept(ctx, h.ID, o.Lease)
			must(t, err)
			tokens = append(tokens, as.JobToken)
			if len(tokens) == 2 {
				must(t, p.scheduler.ReportPhase(ctx, h.ID, o.Lease, nimbus.PhaseStarted, nimbus.Start{}))
			}
		}
	}
	return tokens[0], tokens[1]
}

// TestWhoMayCallWhat tries every kind of token on calls of every kind.
func TestWhoMayCallWhat(t *testing.T) {
	p := startPlane(t)
	h, err := p.scheduler.RegisterHost(t.Context(), "h", "test", nimbus.Inventory{Arch: "amd64", CPUs: 1, MemoryMiB: 1})
	must(t, err)
	tokens := map[string]string{"none": "", "nonsense": "nbs_admin_x", "admin": p.admin}
	tokens["host"], err = p.identity.IssueHost(t.Context(), h.ID)
	must(t, err)
	tokens["join"], _, err = p.identity.IssueJoin(t.Context(), identity.Root(), 0)
	must(t, err)
	tokens["inert job"], tokens["job"] = p.jobTokens(t)
	tokens["login"], err = p.identity.CreateLogin(t.Context(), identity.Root(), "")
	must(t, err)

	// Who gets through; a caller that does gets an answer about its request.
	calls := map[string]string{
		"POST /nimbus.v1.JobService/ListJobs":         "admin",
		"POST /nimbus.v1.JobService/SubmitJob":        "admin",
		"POST /nimbus.v1.JobService/GetJob":           "admin",
		"POST /nimbus.v1.JobService/ListJobEvents":    "admin",
		"POST /nimbus.v1.JobService/CancelJob":        "admin",
		"POST /nimbus.v1.HostService/ListHosts":       "admin",
		"POST /nimbus.v1.HostService/CreateJoinToken": "admin",
		"POST /nimbus.v1.AgentService/Hello":          "host",
		"POST /nimbus.v1.AgentService/Poll":           "host",
		"POST /nimbus.v1.AgentService/Accept":         "host",
		"POST /nimbus.v1.AgentService/Heartbeat":      "host",
		"POST /nimbus.v1.AgentService/ReportPhase":    "host",
		"POST /nimbus.v1.AgentService/CreateRunner":   "host",
		"POST /nimbus.v1.AgentService/AppendLog":      "host",
		"POST /nimbus.v1.AgentService/FinishAttempt":  "host",
		"GET /api/v1/jobs/job_x/log":                  "admin",
		"GET /api/v1/jobs/job_x/log/outline":          "admin",
		"GET /api/v1/jobs/job_x/log/stream":           "admin",
		"PUT /api/v1/workspaces":                      "admin",
		"GET /api/v1/workspaces/x":                    "host",
		"GET /api/v1/me":                              "admin",
		"POST /api/v1/logins":                         "admin",
		"GET /metrics":                                "admin",
	}
	for call, allowed := range calls {
		method, path, _ := strings.Cut(call, " ")
		for kind, token := range tokens {
			headers := map[string]string{"Content-Type": "application/json"}
			if token != "" {
				headers["Authorization"] = "Bearer " + token
			}
			status, body, _ := ask(t, method, p.url+path, "{}", headers)
			want := http.StatusForbidden
			switch kind {
			case "none", "nonsense", "join", "inert job", "login":
				want = http.StatusUnauthorized
			}
			if kind == allowed {
				if status == http.StatusUnauthorized || status == http.StatusForbidden || status >= 500 {
					t.Errorf("%s with a %s token: %d %s", call, kind, status, body)
				}
			} else if status != want {
				t.Errorf("%s with a %s token: %d, want %d: %s", call, kind, status, want, body)
			}
		}
	}
}

func TestLoginAndItsCookie(t *testing.T) {
	p := startPlane(t)
	code, err := p.identity.CreateLogin(t.Context(), identity.Root(), "")
	must(t, err)
	status, _, headers := ask(t, http.MethodGet, p.url+"/login?code="+code, "", nil)
	cookie := headers.Get("Set-Cookie")
	if status != http.StatusSeeOther || !strings.Contains(cookie, "HttpOnly") || !strings.Contains(cookie, "SameSite=Strict") {
		t.Fatalf("%d, cookie %q", status, cookie)
	}
	if status, body, _ := ask(t, http.MethodGet, p.url+"/login?code="+code, "", nil); status != http.StatusUnauthorized || !strings.Contains(body, "nimbus login") {
		t.Errorf("a used link: %d %s", status, body)
	}
	session, _, _ := strings.Cut(cookie, ";")
	with := func(site string) map[string]string {
		return map[string]string{"Cookie": session, "Content-Type": "application/json", "Sec-Fetch-Site": site}
	}
	if status, body, _ := ask(t, http.MethodGet, p.url+"/api/v1/me", "", with("same-origin")); status != http.StatusOK {
		t.Errorf("me: %d %s", status, body)
	}
	for site, want := range map[string]int{"same-origin": http.StatusOK, "cross-site": http.StatusForbidden, "same-site": http.StatusForbidden, "": http.StatusForbidden} {
		if status, body, _ := ask(t, http.MethodPost, p.url+"/nimbus.v1.JobService/ListJobs", "{}", with(site)); status != want {
			t.Errorf("a post from %q: %d, want %d: %s", site, status, want, body)
		}
	}
	if status, _, _ := ask(t, http.MethodPost, p.url+"/api/v1/logout", "", with("same-origin")); status != http.StatusNoContent {
		t.Errorf("logout: %d", status)
	}
	if status, _, _ := ask(t, http.MethodGet, p.url+"/api/v1/me", "", with("same-origin")); status != http.StatusUnauthorized {
		t.Errorf("after logout: %d", status)
	}
}

func TestBadRequestsHarmNobody(t *testing.T) {
	p := startPlane(t)
	admin := map[string]string{"Authorization": "Bearer " + p.admin, "Content-Type": "application/json"}
	for name, c := range map[string]struct {
		method, path, body string
		want               int
	}{
		"malformed JSON":           {"POST", "/nimbus.v1.JobService/GetJob", "{", http.StatusBadRequest},
		"unknown procedure":        {"POST", "/nimbus.v1.JobService/Nothing", "{}", http.StatusNotFound},
		"a job that isn't":         {"POST", "/nimbus.v1.JobService/GetJob", `{"jobId":"../../etc/passwd"}`, http.StatusBadRequest},
		"a job of nobody":          {"POST", "/nimbus.v1.JobService/GetJob", `{"jobId":"` + nimbus.NewID("job", time.Now()) + `"}`, http.StatusNotFound},
		"no command":               {"POST", "/nimbus.v1.JobService/SubmitJob", `{}`, http.StatusBadRequest},
		"a body over bounds":       {"POST", "/nimbus.v1.JobService/SubmitJob", `{"name":"` + strings.Repeat("x", 9<<20) + `"}`, http.StatusTooManyRequests},
		"a missing page":           {"GET", "/assets/none.js", "", http.StatusNotFound},
		"a missing API":            {"GET", "/api/v1/none", "", http.StatusNotFound},
		"a webhook without an App": {"POST", "/webhooks/github", "{}", http.StatusNotFound},
		"a page of its own":        {"GET", "/jobs/anything", "", http.StatusOK},
		"healthz":                  {"GET", "/healthz", "", http.StatusOK},
		"readyz":                   {"GET", "/readyz", "", http.StatusOK},
	} {
		if status, body, _ := ask(t, c.method, p.url+c.path, c.body, admin); status != c.want {
			t.Errorf("%s: %d, want %d: %.200s", name, status, c.want, body)
		}
	}
	other := map[string]string{"Authorization": "Bearer " + p.admin, "Content-Type": "application/json", "Nimbus-Org": nimbus.NewID("org", time.Now())}
	testenv.Require(t, "root")
	startHost(t, p, t.TempDir())
	j := p.submit(t, "echo mine")
	p.await(t, j.ID, "finished", over)
	for _, path := range []string{"/nimbus.v1.JobService/GetJob", "/nimbus.v1.JobService/CancelJob", "/nimbus.v1.JobService/ListJobEvents"} {
		if status, body, _ := ask(t, http.MethodPost, p.url+path, fmt.Sprintf(`{"jobId":%q}`, j.ID), other); status != http.StatusNotFound {
			t.Errorf("another org, %s: %d %s", path, status, body)
		}
	}
	if status, body, _ := ask(t, http.MethodGet, p.url+"/api/v1/jobs/"+j.ID+"/log", "", other); status != http.StatusNotFound {
		t.Errorf("another org reads the log: %d %s", status, body)
	}
}

// TestResume breaks the stream of a running job's log at random points: each
// line comes once.
func TestResume(t *testing.T) {
	testenv.Require(t, "root")
	p := startPlane(t)
	startHost(t, p, t.TempDir())
	j := p.submit(t, "i=1; while [ $i -le 3000 ]; do echo line $i; i=$((i+1)); done; sleep 0.3; echo end")
	p.await(t, j.ID, "finished", over)
	whole := p.get(t, "/api/v1/jobs/"+j.ID+"/log/stream")
	id := ""
	for line := range strings.Lines(whole) {
		if rest, ok := strings.CutPrefix(line, "id: "); ok && strings.HasSuffix(strings.TrimSpace(rest), ":1234") {
			id = strings.TrimSpace(rest)
		}
	}
	if id == "" {
		t.Fatal("no event is line 1234")
	}
	rest := p.get(t, "/api/v1/jobs/"+j.ID+"/log/stream", "Last-Event-ID", id)
	if got := strings.Count(rest, "event: line\n"); got != 3001-1234 {
		t.Errorf("%d lines after line 1234", got)
	}
	if !strings.Contains(rest, `"seq":1235,`) || strings.Contains(rest, `"seq":1234,`) {
		t.Error("it does not go on with line 1235")
	}
	if text := p.get(t, "/api/v1/jobs/"+j.ID+"/log?format=text&from=2999"); text != "line 2999\nline 3000\nend\n" {
		t.Errorf("text from line 2999: %q", text)
	}
}

// TestChangesOfJobsAreStreamed reads the stream of the jobs page: a job that
// is submitted later appears, and so does its end.
func TestChangesOfJobsAreStreamed(t *testing.T) {
	testenv.Require(t, "root")
	p := startPlane(t)
	startHost(t, p, t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+"/api/v1/jobs/stream", nil)
	must(t, err)
	r.Header.Set("Authorization", "Bearer "+p.admin)
	answer, err := http.DefaultClient.Do(r)
	must(t, err)
	defer answer.Body.Close()
	j := p.submit(t, "exit 3")
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "data: ") && strings.Contains(lines.Text(), j.ID) && strings.Contains(lines.Text(), "JOB_RESULT_FAILURE") {
			return
		}
	}
	t.Fatal("the stream ended before the job did")
}
