package githubtest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	nimbus "github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/forge"
	"github.com/nimbus-ci/nimbus/internal/forge/githubtest"
)

const opJIT = "actions/generate-runner-jitconfig-for-repo"

// code wants an error with a code and a word in its message.
func code(t *testing.T, err error, want nimbus.Code, says string) {
	t.Helper()
	if nimbus.ErrorCode(err) != want || want != "" && !strings.Contains(err.Error(), says) {
		t.Errorf("got %v (%s), want %q with %q", err, nimbus.ErrorCode(err), want, says)
	}
}

func TestCreateRunner(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ev := w.event(w.push(project(oneJob)).Jobs[0].ID)
	r, jit, err := w.app.CreateRunner(w.ctx, ev.Job, "nimbus-att-1", ev.Labels)
	if err != nil || r.ID == 0 || r.Name != "nimbus-att-1" || jit == "" {
		t.Fatalf("%+v, %v", r, err)
	}
	_, _, err = w.app.CreateRunner(w.ctx, ev.Job, "nimbus-att-1", ev.Labels)
	code(t, err, nimbus.CodeConflict, "Already exists")
	_, _, err = w.app.CreateRunner(w.ctx, ev.Job, strings.Repeat("n", 65), ev.Labels)
	code(t, err, nimbus.CodeForbidden, "64 characters")

	elsewhere := ev.Job
	elsewhere.Repo = "not-there"
	_, _, err = w.app.CreateRunner(w.ctx, elsewhere, "nimbus-att-2", ev.Labels)
	code(t, err, nimbus.CodeForbidden, "Not Found")
	elsewhere.Repo = "../../app"
	_, _, err = w.app.CreateRunner(w.ctx, elsewhere, "nimbus-att-2", ev.Labels)
	code(t, err, nimbus.CodeForbidden, "not named")
	elsewhere = ev.Job
	elsewhere.InstallationID = 0
	_, _, err = w.app.CreateRunner(w.ctx, elsewhere, "nimbus-att-2", ev.Labels)
	code(t, err, nimbus.CodeForbidden, "without an installation")
	elsewhere.InstallationID = 404
	_, _, err = w.app.CreateRunner(w.ctx, elsewhere, "nimbus-att-2", ev.Labels)
	code(t, err, nimbus.CodeForbidden, "Not Found")

	w.Suspend(true)
	_, _, err = w.app.CreateRunner(w.ctx, ev.Job, "nimbus-att-2", ev.Labels)
	code(t, err, nimbus.CodeForbidden, "suspended")
	w.Suspend(false)
	if _, _, err = w.app.CreateRunner(w.ctx, ev.Job, "nimbus-att-2", ev.Labels); err != nil {
		t.Errorf("after all that: %v", err)
	}
}

// TestTrouble: what passes is unavailable, with the wait that GitHub asks for;
// what stays is told.
func TestTrouble(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ev := w.event(w.push(project(oneJob)).Jobs[0].ID)
	tests := []struct {
		refusal githubtest.Refusal
		want    nimbus.Code
		wait    time.Duration
		says    string
	}{
		{githubtest.Refusal{Status: 500}, nimbus.CodeUnavailable, 0, "500"},
		{githubtest.Refusal{Status: 503, Header: http.Header{"Retry-After": {"7"}}}, nimbus.CodeUnavailable, 7 * time.Second, "503"},
		{githubtest.Refusal{Status: 429, Header: http.Header{"Retry-After": {"30"}}}, nimbus.CodeUnavailable, 30 * time.Second, "rate limit"},
		{githubtest.Refusal{Status: 429}, nimbus.CodeUnavailable, time.Minute, "rate limit"},
		{githubtest.Refusal{Status: 403, Message: "API rate limit exceeded", Header: http.Header{
			"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {"+600"},
		}}, nimbus.CodeUnavailable, 10 * time.Minute, "rate limit"},
		{githubtest.Refusal{Status: 403, Message: "You have exceeded a secondary rate limit", Header: http.Header{"Retry-After": {"999999"}}}, nimbus.CodeUnavailable, time.Hour, "rate limit"},
		{githubtest.Refusal{Status: 403, Message: "Repository level self-hosted runners are disabled"}, nimbus.CodeForbidden, 0, "are disabled"},
		{githubtest.Refusal{Status: 403, Message: "Resource not accessible by integration"}, nimbus.CodeForbidden, 0, "not accessible"},
	}
	for _, tt := range tests {
		tt.refusal.Operation = opJIT
		if tt.refusal.Header.Get("X-Ratelimit-Reset") != "" {
			tt.refusal.Header.Set("X-Ratelimit-Reset", fmt.Sprint(w.clock.Now().Add(10*time.Minute).Unix()))
		}
		w.Refuse(tt.refusal)
		_, _, err := w.app.CreateRunner(w.ctx, ev.Job, "nimbus-att-1", ev.Labels)
		code(t, err, tt.want, tt.says)
		if got := nimbus.ErrorRetryAfter(err); got < tt.wait-5*time.Second || got > tt.wait+5*time.Second {
			t.Errorf("%d %s: wait %v, want %v", tt.refusal.Status, tt.refusal.Message, got, tt.wait)
		}
		w.Accept()
		w.clock.move(time.Hour + time.Minute) // until it may be tried again
	}
	if _, _, err := w.app.CreateRunner(w.ctx, ev.Job, "nimbus-att-1", ev.Labels); err != nil {
		t.Errorf("after all that: %v", err)
	}
	_, err := w.app.JobStatus(canceled(), ev.Job)
	code(t, err, nimbus.CodeCancelled, "read a job")
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	app, err := forge.NewApp(forge.AppConfig{
		AppID: 1, PrivateKey: newWorld(t).PrivateKey(), BaseURL: "http://127.0.0.1:1", Transport: &http.Transport{DisableKeepAlives: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	job := nimbus.GitHubJob{InstallationID: 1, Owner: "o", Repo: "r", JobID: 1}
	_, err = app.JobStatus(t.Context(), job)
	code(t, err, nimbus.CodeUnavailable, "can't be reached")
}

// TestTokens: a token is used until it ends, and a refused one replaced once.
func TestTokens(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ev := w.event(w.push(project(oneJob)).Jobs[0].ID)
	const opToken = "apps/create-installation-access-token"
	status := func() {
		t.Helper()
		if _, err := w.app.JobStatus(w.ctx, ev.Job); err != nil {
			t.Fatal(err)
		}
	}
	status()
	status()
	if n := w.Calls(opToken); n != 1 {
		t.Errorf("%d tokens for two calls", n)
	}
	w.RevokeTokens()
	status()
	if n := w.Calls(opToken); n != 2 {
		t.Errorf("%d tokens after one was revoked", n)
	}
	w.clock.move(2 * time.Hour) // the double's: the token has ended there
	w.Refuse(githubtest.Refusal{Operation: opToken, Status: 502})
	_, err := w.app.JobStatus(w.ctx, ev.Job)
	code(t, err, nimbus.CodeUnavailable, "502")
}

func TestJobStatus(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	job := w.push(project(oneJob)).Jobs[0]
	ev := w.event(job.ID)
	got, err := w.app.JobStatus(w.ctx, ev.Job)
	if err != nil || got.Status != nimbus.ForgeQueued || !got.Demand || got.Job != ev.Job || got.Name != "a" {
		t.Errorf("%+v, %v", got, err)
	}
	if err := w.Steal(job.ID, "somebody-else"); err != nil {
		t.Fatal(err)
	}
	got, err = w.app.JobStatus(w.ctx, ev.Job)
	if err != nil || got.Status != nimbus.ForgeInProgress || got.Demand || got.RunnerName != "somebody-else" || got.RunnerID == 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if err := w.FinishStolen(job.ID, "failure"); err != nil {
		t.Fatal(err)
	}
	got, err = w.app.JobStatus(w.ctx, ev.Job)
	if err != nil || got.Status != nimbus.ForgeCompleted || got.Conclusion != "failure" || got.CompletedAt.IsZero() {
		t.Errorf("%+v, %v", got, err)
	}
	gone := ev.Job
	gone.JobID = 7
	_, err = w.app.JobStatus(w.ctx, gone)
	code(t, err, nimbus.CodeNotFound, "Not Found")
}

func TestRemoveRunner(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	job := w.push(project(strings.ReplaceAll(oneJob, "echo done", "sleep 30"))).Jobs[0]
	ev := w.event(job.ID)
	idle, _ := w.mint(job, "nimbus-att-idle")
	if err := w.app.RemoveRunner(w.ctx, ev.Job, idle); err != nil {
		t.Errorf("an idle runner: %v", err)
	}
	if err := w.app.RemoveRunner(w.ctx, ev.Job, idle); err != nil {
		t.Errorf("one that is gone: %v", err)
	}
	w.mint(job, "nimbus-att-unknown")
	if err := w.app.RemoveRunner(w.ctx, ev.Job, nimbus.Runner{Name: "nimbus-att-unknown"}); err != nil {
		t.Errorf("one whose id is not known: %v", err)
	}
	if err := w.app.RemoveRunner(w.ctx, ev.Job, nimbus.Runner{Name: "nimbus-att-never"}); err != nil {
		t.Errorf("one that never was: %v", err)
	}
	if left := w.Runners(); len(left) != 0 {
		t.Errorf("left: %+v", left)
	}
	busy, jit := w.mint(job, "nimbus-att-busy")
	r := w.run(jit)
	if _, err := w.WaitJob(w.ctx, job.ID, func(j githubtest.Job) bool { return j.Status == "in_progress" }); err != nil {
		t.Fatal(err)
	}
	code(t, w.app.RemoveRunner(w.ctx, ev.Job, busy), nimbus.CodeConflict, "still running")
	r.stop()
	if code := r.wait(t); code != 130 {
		t.Errorf("a stopped runner ended with %d", code)
	}
}

// TestAuthentication: the double refuses what GitHub refuses, so that an App
// that passes here passes there.
func TestAuthentication(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.AddRepository("octo-org", "hello")
	now := time.Now()
	claims := func(change func(*jwt.RegisteredClaims)) jwt.RegisteredClaims {
		c := jwt.RegisteredClaims{
			Issuer: fmt.Sprint(w.AppID()), IssuedAt: jwt.NewNumericDate(now.Add(-30 * time.Second)), ExpiresAt: jwt.NewNumericDate(now.Add(2 * time.Minute)),
		}
		change(&c)
		return c
	}
	sign := func(c jwt.RegisteredClaims, method jwt.SigningMethod, key any) string {
		token, err := jwt.NewWithClaims(method, c).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	rs := func(change func(*jwt.RegisteredClaims)) string {
		return sign(claims(change), jwt.SigningMethodRS256, appKey())
	}
	good := rs(func(*jwt.RegisteredClaims) {})
	tests := map[string]struct {
		path, authorization string
		want                int
	}{
		"good":                    {"/app", "Bearer " + good, 200},
		"none":                    {"/app", "", 401},
		"no JWT":                  {"/app", "Bearer x.y.z", 401},
		"HS256 with the key":      {"/app", "Bearer " + sign(claims(func(*jwt.RegisteredClaims) {}), jwt.SigningMethodHS256, w.PrivateKey()), 401},
		"another App":             {"/app", "Bearer " + rs(func(c *jwt.RegisteredClaims) { c.Issuer = "1" }), 401},
		"ended":                   {"/app", "Bearer " + rs(func(c *jwt.RegisteredClaims) { c.ExpiresAt = jwt.NewNumericDate(now.Add(-time.Minute)) }), 401},
		"without end":             {"/app", "Bearer " + rs(func(c *jwt.RegisteredClaims) { c.ExpiresAt = nil }), 401},
		"for 11 minutes":          {"/app", "Bearer " + rs(func(c *jwt.RegisteredClaims) { c.ExpiresAt = jwt.NewNumericDate(now.Add(11 * time.Minute)) }), 401},
		"from the future":         {"/app", "Bearer " + rs(func(c *jwt.RegisteredClaims) { c.IssuedAt = jwt.NewNumericDate(now.Add(2 * time.Minute)) }), 401},
		"without iat":             {"/app", "Bearer " + rs(func(c *jwt.RegisteredClaims) { c.IssuedAt = nil }), 401},
		"JWT where a token goes":  {"/repos/octo-org/hello", "Bearer " + good, 401},
		"token that nobody made":  {"/repos/octo-org/hello", "token ghs_x", 401},
		"JWT of the installation": {"/repos/octo-org/hello/installation", "Bearer " + good, 200},
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for name, tt := range tests {
		req, err := http.NewRequest(http.MethodGet, w.URL()+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if tt.authorization != "" {
			req.Header.Set("Authorization", tt.authorization)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != tt.want {
			t.Errorf("%s: %d, want %d", name, resp.StatusCode, tt.want)
		}
	}
}

// TestDescribedAnswers calls everything that is left, so that the checks
// against the description see each answer once.
func TestDescribedAnswers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	run := w.push(project(oneJob))
	_, jit := w.mint(run.Jobs[0], "nimbus-att-1")
	get := func(method, path, token string, want int) string {
		t.Helper()
		req, err := http.NewRequest(method, w.URL()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := (&http.Client{
			Transport:     &http.Transport{DisableKeepAlives: true},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s %s: %d, want %d", method, path, resp.StatusCode, want)
		}
		var body struct {
			Token string `json:"token"`
		}
		_ = json.NewDecoder(resp.Body).Decode(&body)
		return body.Token + resp.Header.Get("Location")
	}
	app, err := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.RegisteredClaims{
		Issuer: fmt.Sprint(w.AppID()), IssuedAt: jwt.NewNumericDate(time.Now()), ExpiresAt: jwt.NewNumericDate(time.Now().Add(time.Minute)),
	}).SignedString(appKey())
	if err != nil {
		t.Fatal(err)
	}
	token := get("POST", "/app/installations/2002/access_tokens", app, 201)
	repo := "/repos/octo-org/hello"
	for _, path := range []string{"/app", "/app/installations", "/app/installations/2002", "/app/hook/deliveries?per_page=1", repo + "/installation"} {
		get("GET", path, app, 200)
	}
	for _, path := range []string{
		"/installation/repositories", repo, repo + "/actions/runners", fmt.Sprintf("%s/actions/runners/%d", repo, w.Runners()[0].ID),
		repo + "/actions/runs?status=queued", fmt.Sprintf("%s/actions/runs/%d", repo, run.ID), fmt.Sprintf("%s/actions/runs/%d/jobs?filter=latest", repo, run.ID),
		fmt.Sprintf("%s/actions/runs/%d/attempts/1/jobs", repo, run.ID),
	} {
		get("GET", path, token, 200)
	}
	get("GET", repo+"/actions/runs/1", token, 404)
	get("GET", "/app/installations/1", app, 404)
	get("POST", fmt.Sprintf("%s/actions/runs/%d/rerun-failed-jobs", repo, run.ID), token, 403)
	if code := w.run(jit).wait(t); code != 0 {
		t.Errorf("the job ended with %d", code)
	}
	page := get("GET", fmt.Sprintf("%s/actions/jobs/%d/logs", repo, run.Jobs[0].ID), token, 302)
	if status, text := fetch(t, page); status != 200 || !strings.Contains(text, "done\n") {
		t.Errorf("log page %d: %s", status, text)
	}
	get("POST", fmt.Sprintf("%s/actions/runs/%d/cancel", repo, run.ID), token, 409)
	get("POST", fmt.Sprintf("%s/actions/runs/%d/rerun", repo, run.ID), token, 201)
	get("POST", fmt.Sprintf("%s/actions/runs/%d/cancel", repo, run.ID), token, 202)
}

// TestViolationsAreFound: a double that sees nothing would prove nothing.
func TestViolationsAreFound(t *testing.T) {
	t.Parallel()
	s, err := githubtest.Start(githubtest.Config{Key: appKey()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	s.AddRepository("o", "r")
	app, err := forge.NewApp(forge.AppConfig{AppID: s.AppID(), PrivateKey: s.PrivateKey(), BaseURL: s.URL(), Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	job := nimbus.GitHubJob{InstallationID: 2002, Owner: "o", Repo: "r", JobID: 1, RunID: 1}
	_, _, err = app.CreateRunner(t.Context(), job, "n", nil) // labels are required
	code(t, err, nimbus.CodeForbidden, "labels")
	fetch(t, s.URL()+"/user/keys")
	if v := s.Violations(); len(v) != 2 || !strings.Contains(v[0], "labels") || !strings.Contains(v[1], "/user/keys") {
		t.Errorf("violations: %q", v)
	}
}

func TestNewAppRefuses(t *testing.T) {
	t.Parallel()
	key := newWorld(t).PrivateKey()
	for name, cfg := range map[string]forge.AppConfig{
		"no id":    {PrivateKey: key},
		"no key":   {AppID: 1},
		"no PEM":   {AppID: 1, PrivateKey: []byte("secret words")},
		"base URL": {AppID: 1, PrivateKey: key, BaseURL: "api.github.com"},
	} {
		_, err := forge.NewApp(cfg)
		code(t, err, nimbus.CodeInvalid, "")
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error repeats the key: %v", name, err)
		}
	}
}
