package githubtest_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	nimbus "github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/forge"
	"github.com/nimbus-ci/nimbus/internal/forge/githubtest"
	"github.com/nimbus-ci/nimbus/internal/forge/githubtest/runner"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// appKey is made once: an RSA key costs more than a whole test.
var appKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// testClock is the system's clock, moved.
type testClock struct {
	mu     sync.Mutex
	offset time.Duration
}

func (c *testClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.offset)
}

func (c *testClock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset += d
}

// world is a double with Nimbus's side of GitHub around it.
type world struct {
	*githubtest.Server
	t     *testing.T
	ctx   context.Context
	app   *forge.App
	clock *testClock

	mu     sync.Mutex
	events []nimbus.ForgeEvent // accepted ones, without repeated deliveries
	seen   map[string]bool
	fail   bool // answer deliveries with 503
}

// newWorld starts a double that must have seen no violation at the end.
func newWorld(t *testing.T, change ...func(*githubtest.Config)) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	w := &world{t: t, ctx: ctx, clock: &testClock{}, seen: map[string]bool{}}
	cfg := githubtest.Config{Key: appKey(), Clock: w.clock}
	for _, f := range change {
		f(&cfg)
	}
	var err error
	if w.Server, err = githubtest.Start(cfg); err != nil {
		t.Fatal(err)
	}
	hook := httptest.NewServer(forge.NewWebhook(forge.WebhookConfig{
		Secrets: func() [][]byte { return [][]byte{w.WebhookSecret()} },
		Process: w.process,
	}))
	w.SetWebhook(hook.URL)
	transport := &http.Transport{}
	w.app, err = forge.NewApp(forge.AppConfig{AppID: w.AppID(), PrivateKey: w.PrivateKey(), BaseURL: w.URL(), Transport: transport, Clock: w.clock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, v := range w.Violations() {
			t.Errorf("violation: %s", v)
		}
		transport.CloseIdleConnections()
		w.Close()
		hook.Close()
	})
	return w
}

func (w *world) process(_ context.Context, d nimbus.Delivery, ev *nimbus.ForgeEvent) (nimbus.DeliveryOutcome, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fail {
		return "", nimbus.Errorf(nimbus.CodeUnavailable, "the database is away")
	}
	if w.seen[d.ID] {
		return nimbus.DeliveryDuplicate, nil
	}
	w.seen[d.ID] = true
	if ev == nil {
		return nimbus.DeliveryIgnored, nil
	}
	w.events = append(w.events, *ev)
	return nimbus.DeliveryAccepted, nil
}

// statuses are those that were received of a job, in their order.
func (w *world) statuses(jobID int64) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, ev := range w.events {
		if ev.Job.JobID == jobID {
			word := string(ev.Status)
			if ev.Conclusion != "" {
				word += ":" + ev.Conclusion
			}
			out = append(out, word)
		}
	}
	return strings.Join(out, " ")
}

// event is the first one of a job.
func (w *world) event(jobID int64) nimbus.ForgeEvent {
	w.t.Helper()
	if err := w.Flush(w.ctx); err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, ev := range w.events {
		if ev.Job.JobID == jobID {
			return ev
		}
	}
	w.t.Fatalf("no event of job %d came", jobID)
	return nimbus.ForgeEvent{}
}

// project is a repository with one workflow.
func project(workflow string) fs.FS {
	return fstest.MapFS{".github/workflows/ci.yml": {Data: []byte(workflow)}, "README.md": {Data: []byte("hello\n")}}
}

// push pushes a workflow and returns its only run.
func (w *world) push(tree fs.FS) githubtest.Run {
	w.t.Helper()
	ids, err := w.Push(w.ctx, "octo-org/hello", tree)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.Flush(w.ctx); err != nil {
		w.t.Fatal(err)
	}
	run, _ := w.Run(ids[0])
	return run
}

// mint makes a runner for a job as Nimbus does.
func (w *world) mint(job githubtest.Job, name string) (nimbus.Runner, string) {
	w.t.Helper()
	ev := w.event(job.ID)
	r, jit, err := w.app.CreateRunner(w.ctx, ev.Job, name, ev.Labels)
	if err != nil {
		w.t.Fatal(err)
	}
	return r, jit
}

// output is a writer for a runner that runs elsewhere.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// started is a stand-in runner at work.
type started struct {
	out  *output
	errs *output
	code chan int
	stop context.CancelFunc
}

// run starts the stand-in runner, which gives up soon where it is not let in.
func (w *world) run(jit string) started { return w.runPatient(jit, 3*time.Second) }

// runPatient starts one that tries a call again for so long.
func (w *world) runPatient(jit string, patience time.Duration) started {
	ctx, stop := context.WithCancel(w.ctx)
	r := started{out: &output{}, errs: &output{}, code: make(chan int, 1), stop: stop}
	dir := w.t.TempDir()
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.code <- runner.Run(ctx, runner.Config{JITConfig: jit, Dir: dir, Stdout: io.Discard, Log: r.out, Stderr: r.errs, RetryFor: patience})
	}()
	w.t.Cleanup(func() { stop(); <-done })
	return r
}

// wait returns the exit code.
func (r started) wait(t *testing.T) int {
	t.Helper()
	select {
	case code := <-r.code:
		return code
	case <-time.After(2 * time.Minute):
		t.Fatalf("the runner did not end; stdout:\n%s\nstderr:\n%s", r.out, r.errs)
		return -1
	}
}

const oneJob = `
on: push
jobs:
  a:
    runs-on: [nimbus]
    steps: [{run: echo done}]
`

// TestHello runs the example as the demo does: every job with a runner of its
// own, through the whole way of webhooks, App and runner.
func TestHello(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	run := w.push(os.DirFS("../../../examples/hello"))
	b, err := os.ReadFile("../../../examples/hello/expected.json")
	if err != nil {
		t.Fatal(err)
	}
	var expected map[string]string
	if err := json.Unmarshal(b, &expected); err != nil || len(expected) != len(run.Jobs) {
		t.Fatalf("expected.json: %v, %v", expected, err)
	}
	runners := map[string]started{}
	for _, job := range run.Jobs {
		if ev := w.event(job.ID); !ev.Demand || !slices.Equal(ev.Labels, []string{"nimbus"}) {
			t.Errorf("%s: %+v", job.Name, ev)
		}
		_, jit := w.mint(job, "nimbus-att-"+job.Key)
		runners[job.Key] = w.run(jit)
	}
	run, err = w.WaitRun(w.ctx, run.ID)
	if err != nil {
		t.Fatal(err)
	}
	codes := map[string]int{}
	for key, r := range runners {
		codes[key] = r.wait(t)
		if r.errs.String() != "" {
			t.Errorf("%s: stderr %s", key, r.errs)
		}
	}
	if run.Conclusion != "failure" {
		t.Errorf("the run is a %s", run.Conclusion)
	}
	// The runners are alike: each job ran on one of them, not always its own.
	var got []int
	for _, code := range codes {
		got = append(got, code)
	}
	if slices.Sort(got); !slices.Equal(got, []int{0, 0, 3}) {
		t.Errorf("exit codes %v, want two 0 and one 3", codes)
	}
	for _, job := range run.Jobs {
		if job.Conclusion != expected[job.Key] {
			t.Errorf("%s: %s, want %s; log:\n%s", job.Key, job.Conclusion, expected[job.Key], job.Log)
		}
		want := "queued in_progress completed:" + expected[job.Key]
		if got := w.statuses(job.ID); got != want {
			t.Errorf("%s: events %q, want %q", job.Key, got, want)
		}
		for i, step := range job.Steps {
			if step.Number != i+1 || step.Status != "completed" || step.Conclusion == "" {
				t.Errorf("%s: step %+v", job.Key, step)
			}
		}
	}
	if left := w.Runners(); len(left) != 0 {
		t.Errorf("runners are left: %+v", left)
	}
}

func TestRunnerShowsStepsAndOutput(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	run := w.push(os.DirFS("../../../examples/hello"))
	for _, job := range run.Jobs {
		if job.Key != "broken" {
			if err := w.Steal(job.ID, "somebody-else"); err != nil {
				t.Fatal(err)
			}
		}
	}
	broken := run.Jobs[slices.IndexFunc(run.Jobs, func(j githubtest.Job) bool { return j.Key == "broken" })]
	_, jit := w.mint(broken, "nimbus-att-1")
	r := w.run(jit)
	if code := r.wait(t); code != 3 {
		t.Errorf("exit code %d, want 3", code)
	}
	var steps []string
	for line := range strings.Lines(r.out.String()) {
		if name, ok := strings.CutPrefix(line, "::nimbus-step::"); ok {
			steps = append(steps, strings.TrimSpace(name))
		}
	}
	if want := []string{"Set up job", "Works", "Fails on purpose", "Cleans up", "Complete job"}; !slices.Equal(steps, want) {
		t.Errorf("steps %q, want %q", steps, want)
	}
	job, err := w.WaitJob(w.ctx, broken.ID, func(j githubtest.Job) bool { return j.Status == "completed" })
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"so far, so good\n", "this job is meant to fail", "Process completed with exit code 3", "but this runs always"} {
		if !strings.Contains(job.Log, want) || !strings.Contains(r.out.String(), want) {
			t.Errorf("%q is missing in the log:\n%s", want, job.Log)
		}
	}
	if strings.Contains(job.Log, "a failed step skips") || job.Steps[3].Conclusion != "skipped" {
		t.Errorf("a step after the failure ran: %+v", job.Steps)
	}
}

func fetch(t *testing.T, url string) (int, string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}
