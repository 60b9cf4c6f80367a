package forge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	nimbus "github.com/nimbus-ci/nimbus"
)

var testSecret = []byte("a secret of the tests")

// ledger is the smallest Process: it remembers what it was given.
type ledger struct {
	mu         sync.Mutex
	deliveries []nimbus.Delivery
	events     []*nimbus.ForgeEvent
	err        error
}

func (l *ledger) process(_ context.Context, d nimbus.Delivery, ev *nimbus.ForgeEvent) (nimbus.DeliveryOutcome, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return "", l.err
	}
	for _, before := range l.deliveries {
		if before.ID == d.ID {
			return nimbus.DeliveryDuplicate, nil
		}
	}
	l.deliveries, l.events = append(l.deliveries, d), append(l.events, ev)
	if ev == nil {
		return nimbus.DeliveryIgnored, nil
	}
	return nimbus.DeliveryAccepted, nil
}

type fixedClock time.Time

func (c fixedClock) Now() time.Time { return time.Time(c) }

var testNow = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func newHook(l *ledger, change ...func(*WebhookConfig)) http.Handler {
	cfg := WebhookConfig{
		Secrets: func() [][]byte { return [][]byte{[]byte("the next secret"), testSecret} },
		Process: l.process,
		Clock:   fixedClock(testNow),
	}
	for _, f := range change {
		f(&cfg)
	}
	return NewWebhook(cfg)
}

func request(event string, body []byte, change ...func(*http.Request)) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/webhooks/github", bytes.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-GitHub-Event", event)
	r.Header.Set("X-GitHub-Delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958")
	r.Header.Set("X-Hub-Signature-256", Sign(testSecret, body))
	for _, f := range change {
		f(r)
	}
	return r
}

func serve(h http.Handler, r *http.Request) (status int, answer map[string]string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		answer = map[string]string{"not json": w.Body.String()}
	}
	return w.Code, answer
}

func payload(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "webhooks", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestExamplePayloads sends every example of GitHub's.
func TestExamplePayloads(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		status  int
		outcome string
		demand  bool
		is      nimbus.ForgeStatus
	}{
		"workflow_job.queued.json":      {202, "accepted", true, nimbus.ForgeQueued},
		"workflow_job.queued-2.json":    {202, "accepted", false, nimbus.ForgeWaiting}, // an environment's gate
		"workflow_job.waiting.json":     {202, "accepted", false, nimbus.ForgeWaiting},
		"workflow_job.in_progress.json": {202, "accepted", false, nimbus.ForgeInProgress},
		"workflow_job.completed.json":   {202, "accepted", false, nimbus.ForgeCompleted},
		"workflow_run.completed.json":   {202, "ignored", false, ""},
		"check_run.rerequested.json":    {202, "ignored", false, ""},
		"ping.json":                     {200, "pong", false, ""},
	}
	files, err := filepath.Glob("testdata/webhooks/*.json")
	if err != nil || len(files) != len(tests) {
		t.Fatalf("%d files, %d tests (%v)", len(files), len(tests), err)
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var l ledger
			event, _, _ := strings.Cut(name, ".")
			status, answer := serve(newHook(&l), request(event, payload(t, name)))
			if status != tt.status || answer["outcome"] != tt.outcome {
				t.Fatalf("%d %v, want %d %s", status, answer, tt.status, tt.outcome)
			}
			if tt.is == "" {
				if len(l.events) == 1 && l.events[0] != nil {
					t.Errorf("became the event %+v", l.events[0])
				}
				return
			}
			if ev := l.events[0]; ev.Status != tt.is || ev.Demand != tt.demand {
				t.Errorf("status %s, demand %v; want %s, %v", ev.Status, ev.Demand, tt.is, tt.demand)
			}
		})
	}
}

func TestEventIsReadWhole(t *testing.T) {
	t.Parallel()
	var l ledger
	body := payload(t, "workflow_job.in_progress.json")
	if status, answer := serve(newHook(&l), request("workflow_job", body)); status != 202 {
		t.Fatal(status, answer)
	}
	want := &nimbus.ForgeEvent{
		Status: nimbus.ForgeInProgress,
		Job: nimbus.GitHubJob{
			Owner: "Codertocat", Repo: "Hello-World",
			JobID: 289782451, RunID: 2202229078, RunAttempt: 1, WorkflowName: "CodeQL", HeadBranch: "main",
			HeadSHA: "3484a3fb816e0859fd6e1cea078d76385ff50625",
			HTMLURL: "https://github.com/octo-org/octo-repo/runs/1291536064",
		},
		Labels: []string{"ubuntu-latest"}, Name: "update",
		RunnerID: 5, RunnerName: "GitHub Actions 5",
		CreatedAt: time.Date(2021, 9, 13, 2, 21, 13, 0, time.UTC), StartedAt: time.Date(2021, 9, 13, 2, 21, 13, 0, time.UTC),
	}
	var raw struct {
		Repository   struct{ Owner struct{ Login string } }
		Installation struct{ ID int64 }
		WorkflowJob  struct {
			RunID   int64  `json:"run_id"`
			HTMLURL string `json:"html_url"`
			Name    string
		} `json:"workflow_job"`
	}
	if err := json.Unmarshal(body, &raw); err != nil {
		t.Fatal(err)
	}
	want.Job.Owner, want.Job.InstallationID = raw.Repository.Owner.Login, raw.Installation.ID
	want.Job.RunID, want.Job.HTMLURL, want.Name = raw.WorkflowJob.RunID, raw.WorkflowJob.HTMLURL, raw.WorkflowJob.Name
	if diff := cmp.Diff(want, l.events[0]); diff != "" {
		t.Error(diff)
	}
	d := l.deliveries[0]
	if d.Event != "workflow_job" || d.Action != "in_progress" || !d.ReceivedAt.Equal(testNow) || len(d.BodySHA256) != 64 {
		t.Errorf("%+v", d)
	}
}

func TestQueuedJobHasNoRunner(t *testing.T) {
	t.Parallel()
	ev, err := ParseWorkflowJob(payload(t, "workflow_job.queued.json"))
	if err != nil {
		t.Fatal(err)
	}
	if ev.RunnerID != 0 || ev.RunnerName != "" {
		t.Errorf("runner %d %q of a queued job was believed", ev.RunnerID, ev.RunnerName)
	}
}

// TestBadDeliveries: each is refused as documented, none reaches Process, and
// the next good one is served.
func TestBadDeliveries(t *testing.T) {
	t.Parallel()
	good := payload(t, "workflow_job.queued.json")
	header := func(key, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(key, value) }
	}
	job := func(fields string) []byte {
		return []byte(`{"action":"queued","workflow_job":{` + fields + `},"repository":{"name":"r","owner":{"login":"o"}}}`)
	}
	tests := map[string]struct {
		request *http.Request
		status  int
	}{
		"GET":                   {request("ping", nil, func(r *http.Request) { r.Method = http.MethodGet }), 405},
		"no signature":          {request("ping", good, func(r *http.Request) { r.Header.Del("X-Hub-Signature-256") }), 401},
		"signature of nothing":  {request("ping", good, header("X-Hub-Signature-256", "sha256=")), 401},
		"signature is no hex":   {request("ping", good, header("X-Hub-Signature-256", "sha256="+strings.Repeat("z", 64))), 401},
		"sha1":                  {request("ping", good, header("X-Hub-Signature-256", "sha1="+strings.Repeat("0", 40))), 401},
		"another secret":        {request("ping", good, header("X-Hub-Signature-256", Sign([]byte("other"), good))), 401},
		"empty secret":          {request("ping", good, header("X-Hub-Signature-256", Sign(nil, good))), 401},
		"another body":          {request("ping", good, header("X-Hub-Signature-256", Sign(testSecret, good[1:]))), 401},
		"no delivery id":        {request("workflow_job", good, func(r *http.Request) { r.Header.Del("X-GitHub-Delivery") }), 400},
		"endless delivery id":   {request("workflow_job", good, header("X-GitHub-Delivery", strings.Repeat("a", 65))), 400},
		"delivery id of a path": {request("workflow_job", good, header("X-GitHub-Delivery", "../x")), 400},
		"no event":              {request("", good), 400},
		"event of words":        {request("workflow job", good), 400},
		"empty body":            {request("workflow_job", nil), 400},
		"no JSON":               {request("workflow_job", []byte("{")), 400},
		"JSON and more":         {request("workflow_job", append(bytes.Clone(good), '}')), 400},
		"array":                 {request("workflow_job", []byte("[]")), 400},
		"form":                  {request("workflow_job", []byte("payload=%7B%7D"), header("Content-Type", "application/x-www-form-urlencoded")), 400},
		"no JSON, unknown":      {request("star", []byte("nope")), 400},
		"no job":                {request("workflow_job", []byte(`{"action":"queued"}`)), 400},
		"job without id":        {request("workflow_job", job(`"run_id":1,"status":"queued"`)), 400},
		"negative id":           {request("workflow_job", job(`"id":-1,"run_id":1,"status":"queued"`)), 400},
		"id of words":           {request("workflow_job", job(`"id":"7","run_id":1,"status":"queued"`)), 400},
		"101 labels":            {request("workflow_job", job(`"id":1,"run_id":1,"status":"queued","labels":["a"`+strings.Repeat(`,"a"`, 100)+`]`)), 400},
		"endless label":         {request("workflow_job", job(`"id":1,"run_id":1,"status":"queued","labels":["`+strings.Repeat("a", 257)+`"]`)), 400},
		"repository of a path":  {request("workflow_job", bytes.Replace(job(`"id":1,"run_id":1,"status":"queued"`), []byte(`"r"`), []byte(`".."`), 1)), 400},
		"owner with a slash":    {request("workflow_job", bytes.Replace(job(`"id":1,"run_id":1,"status":"queued"`), []byte(`"o"`), []byte(`"o/p"`), 1)), 400},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var l ledger
			hook := newHook(&l)
			status, answer := serve(hook, tt.request)
			if status != tt.status || answer["message"] == "" || answer["code"] == "" {
				t.Errorf("%d %v, want %d with code and message", status, answer, tt.status)
			}
			if len(l.deliveries) != 0 {
				t.Errorf("was processed: %+v", l.deliveries[0])
			}
			if status, answer := serve(hook, request("workflow_job", good)); status != 202 {
				t.Errorf("the next one got %d %v", status, answer)
			}
		})
	}
}

func TestBodyLimit(t *testing.T) {
	t.Parallel()
	const limit = 1 << 10
	small := func(c *WebhookConfig) { c.MaxBody = limit }
	over := bytes.Repeat([]byte(" "), limit+1)

	t.Run("announced", func(t *testing.T) {
		t.Parallel()
		var l ledger
		r := request("workflow_job", over)
		r.Body = io.NopCloser(readerFunc(func([]byte) (int, error) {
			t.Error("the body was read")
			return 0, io.EOF
		}))
		if status, _ := serve(newHook(&l, small), r); status != 413 {
			t.Errorf("%d, want 413", status)
		}
	})
	t.Run("not announced", func(t *testing.T) {
		t.Parallel()
		var l ledger
		r := request("workflow_job", over)
		r.ContentLength = -1
		if status, _ := serve(newHook(&l, small), r); status != 413 {
			t.Errorf("%d, want 413", status)
		}
	})
	t.Run("just fits", func(t *testing.T) {
		t.Parallel()
		var l ledger
		body := append([]byte(`{"a":"`), bytes.Repeat([]byte("x"), limit-8)...)
		body = append(body, `"}`...)
		if status, answer := serve(newHook(&l, small), request("star", body)); status != 202 {
			t.Errorf("%d %v, want 202", status, answer)
		}
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestInFlight: bodies that are being read count together, and are given back.
func TestInFlight(t *testing.T) {
	t.Parallel()
	b := &inFlight{limit: 10}
	first := &inFlightReader{r: strings.NewReader("12345678"), budget: b}
	if _, err := io.ReadAll(first); err != nil {
		t.Fatal(err)
	}
	second := &inFlightReader{r: strings.NewReader("12345678"), budget: b}
	if _, err := io.ReadAll(second); !errors.Is(err, errInFlight) {
		t.Errorf("got %v over the budget", err)
	}
	first.release()
	second.release()
	if used := b.used.Load(); used != 0 {
		t.Errorf("%d bytes are still taken", used)
	}
}

// TestEmptySecretMatchesNothing: a secret that was never set must not let in
// whoever signs with nothing.
func TestEmptySecretMatchesNothing(t *testing.T) {
	t.Parallel()
	body := []byte("{}")
	for _, secrets := range [][][]byte{nil, {nil}, {[]byte("")}} {
		if VerifySignature(secrets, body, Sign(nil, body)) {
			t.Errorf("%q let an empty secret in", secrets)
		}
	}
}

func TestDuplicateAndErrorsOfProcess(t *testing.T) {
	t.Parallel()
	good := payload(t, "workflow_job.queued.json")
	var l ledger
	hook := newHook(&l)
	serve(hook, request("workflow_job", good))
	if status, answer := serve(hook, request("workflow_job", good)); status != 200 || answer["outcome"] != "duplicate" {
		t.Errorf("a replay got %d %v", status, answer)
	}
	for code, want := range map[nimbus.Code]int{
		nimbus.CodeUnavailable: 503, nimbus.CodeInternal: 500, nimbus.CodeRateLimited: 429, nimbus.CodeInvalid: 400, nimbus.CodeConflict: 500,
	} {
		fail := nimbus.Errorf(code, "the table is on fire")
		fail.RetryAfter = 1500 * time.Millisecond
		hook := newHook(&ledger{err: fail})
		w := httptest.NewRecorder()
		hook.ServeHTTP(w, request("workflow_job", good))
		if w.Code != want {
			t.Errorf("%s became %d, want %d", code, w.Code, want)
		}
		if told := strings.Contains(w.Body.String(), "fire"); told == (want == 500) {
			t.Errorf("%s answered %s", code, w.Body)
		}
		if after := w.Header().Get("Retry-After"); want != 500 && after != "2" {
			t.Errorf("%s: Retry-After %q, want 2", code, after)
		}
	}
}

func TestTextIsBounded(t *testing.T) {
	t.Parallel()
	ev, err := ParseWorkflowJob([]byte(`{"action":"queued","workflow_job":{"id":1,"run_id":2,"status":"queued",
		"name":"a\u0000b\u001b[2Jc","head_branch":"` + strings.Repeat("é", 1000) + `","head_sha":"DROP TABLE",
		"html_url":"javascript:alert(1)","labels":["x\ny"],"created_at":"yesterday"},
		"repository":{"name":"r","owner":{"login":"o"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if ev.Name != "a b [2Jc" || len(ev.Job.HeadBranch) > maxTextBytes || ev.Job.HeadSHA != "" || ev.Job.HTMLURL != "" ||
		ev.Labels[0] != "x y" || !ev.CreatedAt.IsZero() || ev.Job.RunAttempt != 1 {
		t.Errorf("%+v", ev)
	}
	if ev, err := ParseWorkflowJob([]byte(`{"workflow_job":{"id":1,"run_id":2,"status":"levitating"},"repository":{"name":"r","owner":{"login":"o"}}}`)); ev != nil || err != nil {
		t.Errorf("an unknown status gave %+v, %v", ev, err)
	}
}

func FuzzVerifySignature(f *testing.F) {
	f.Add([]byte("body"), "sha256=00")
	f.Add([]byte(""), Sign(testSecret, nil))
	f.Fuzz(func(t *testing.T, body []byte, header string) {
		good := Sign(testSecret, body)
		if !VerifySignature([][]byte{testSecret}, body, good) {
			t.Fatal("a good signature was refused")
		}
		if VerifySignature([][]byte{testSecret}, body, header) && !strings.EqualFold(header, good) {
			t.Fatalf("%q was taken for %q", header, good)
		}
	})
}

func FuzzParseWorkflowJob(f *testing.F) {
	files, _ := filepath.Glob("testdata/webhooks/workflow_job.*.json")
	for _, name := range files {
		f.Add(payload(f, filepath.Base(name)))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		ev, err := ParseWorkflowJob(body)
		if err != nil {
			if nimbus.ErrorCode(err) != nimbus.CodeInvalid {
				t.Fatalf("%v has code %s", err, nimbus.ErrorCode(err))
			}
			return
		}
		if ev == nil {
			return
		}
		if ev.Status.Rank() == 0 || ev.Job.JobID <= 0 || ev.Job.Owner == "" || len(ev.Labels) > nimbus.MaxLabels ||
			len(ev.Name) > 3*maxTextBytes || strings.ContainsRune(ev.Name+ev.Conclusion+ev.Job.HeadBranch, 0) {
			t.Fatalf("%+v", ev)
		}
	})
}
