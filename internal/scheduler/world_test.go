package scheduler_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/bus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store"
	"github.com/nimbus-ci/nimbus/internal/store/storetest"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

var admin = nimbus.Principal{Kind: nimbus.PrincipalAdmin, Subject: "root"}

// failer is what a test and one of its random histories have in common.
type failer interface {
	Helper()
	Context() context.Context
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// world is a scheduler with its books, a GitHub and a clock that the test moves.
type world struct {
	*scheduler.Service
	t      failer
	store  *store.Store
	dsn    string
	bus    *bus.InProcess
	github *github
	tokens *tokenBook
	offset time.Duration
	serial int
}

// eachEngine runs f in a new world on SQLite and on PostgreSQL.
func eachEngine(t *testing.T, cfg scheduler.Config, f func(t *testing.T, w *world)) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) { t.Parallel(); f(t, newWorld(t, storetest.SQLite(t), cfg)) })
	t.Run("postgres", func(t *testing.T) { t.Parallel(); f(t, newWorld(t, storetest.Postgres(t), cfg)) })
}

func newWorld(t testing.TB, dsn string, cfg scheduler.Config) *world {
	t.Helper()
	st, err := store.Open(t.Context(), store.Config{DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &world{t: t, store: st, dsn: dsn, bus: bus.NewInProcess(), github: newGitHub(), tokens: &tokenBook{}}
	w.Service = scheduler.New(cfg, st, w.bus, w.github, w.tokens, slog.New(slog.DiscardHandler))
	return w
}

// replica is another scheduler on the same books.
func (w *world) replica(cfg scheduler.Config) *world {
	other := *w
	other.bus = bus.NewInProcess()
	other.Service = scheduler.New(cfg, w.store, other.bus, w.github, w.tokens, slog.New(slog.DiscardHandler))
	return &other
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) want(code nimbus.Code, err error) {
	w.t.Helper()
	if got := nimbus.ErrorCode(err); got != code {
		w.t.Fatalf("error %q has code %q, want %q", err, got, code)
	}
}

// pass moves the clock and lets the sweeps do their work.
func (w *world) pass(d time.Duration) {
	w.t.Helper()
	w.skip(d)
	w.sweep()
}

// skip moves the clock alone.
func (w *world) skip(d time.Duration) {
	w.t.Helper()
	w.offset += d
	w.must(w.store.OffsetClock(w.t.Context(), w.offset))
}

func (w *world) sweep() {
	w.t.Helper()
	w.must(scheduler.Sweep(w.Service, w.t.Context()))
	w.must(scheduler.AskForge(w.Service, w.t.Context()))
}

func inventory(executors ...string) nimbus.Inventory {
	inv := nimbus.Inventory{Arch: "amd64", CPUs: 64, MemoryMiB: 64 << 10}
	for _, name := range []string{nimbus.ExecutorMicroVM, nimbus.ExecutorLocal} {
		e := nimbus.ExecutorStatus{Name: name, Available: slices.Contains(executors, name)}
		if !e.Available {
			e.Detail, e.Hint = "not installed", "install it"
		}
		inv.Executors = append(inv.Executors, e)
	}
	return inv
}

func (w *world) host(executors ...string) string {
	w.t.Helper()
	if len(executors) == 0 {
		executors = []string{nimbus.ExecutorMicroVM, nimbus.ExecutorLocal}
	}
	w.serial++
	h, err := w.RegisterHost(w.t.Context(), fmt.Sprintf("host%d", w.serial), "v1", inventory(executors...))
	w.must(err)
	return h.ID
}

var plenty = nimbus.Capacity{CPUs: 64, MemoryMiB: 64 << 10, Sandboxes: 64}

// poll asks once, without waiting.
func (w *world) poll(host string) scheduler.PollResult {
	w.t.Helper()
	r, err := w.Poll(w.t.Context(), host, plenty, 0)
	w.must(err)
	return r
}

// offer polls until the host is offered a job, which must be at once.
func (w *world) offer(host string) nimbus.Offer {
	w.t.Helper()
	r := w.poll(host)
	if len(r.Offers) == 0 {
		w.t.Fatalf("%s is offered nothing", host)
	}
	return r.Offers[0]
}

// accept takes a job up to accepted.
func (w *world) accept(host string) nimbus.Assignment {
	w.t.Helper()
	a, err := w.Accept(w.t.Context(), host, w.offer(host).Lease)
	w.must(err)
	return a
}

// start takes a native job up to running.
func (w *world) start(host string) nimbus.Assignment {
	w.t.Helper()
	a := w.accept(host)
	w.must(w.ReportPhase(w.t.Context(), host, a.Lease, nimbus.PhaseStarted, nimbus.Start{}))
	return a
}

func (w *world) submit(spec nimbus.Spec) nimbus.Job {
	w.t.Helper()
	if spec.Command == nil {
		spec.Command = []string{"true"}
	}
	j, err := w.Submit(w.t.Context(), admin, scheduler.Submission{Spec: spec})
	w.must(err)
	return j
}

func (w *world) job(id string) nimbus.Job {
	w.t.Helper()
	j, err := w.Job(w.t.Context(), nimbus.DefaultOrgID, id)
	w.must(err)
	return j
}

// expect checks where a job is: its state, and result and reason if given.
func (w *world) expect(id string, state nimbus.State, ending ...any) nimbus.Job {
	w.t.Helper()
	j := w.job(id)
	ok := j.State == state
	for _, e := range ending {
		switch e := e.(type) {
		case nimbus.Result:
			ok = ok && j.Result == e
		case nimbus.ReasonCode:
			ok = ok && j.Reason.Code == e
		}
	}
	if !ok {
		w.t.Fatalf("job is %s %s (%s: %s), want %s %v", j.State, j.Result, j.Reason.Code, j.Reason.Message, state, ending)
	}
	return j
}

func exited(code int) nimbus.Outcome {
	o := nimbus.Outcome{Result: nimbus.ResultSuccess, ExitCode: &code}
	if code != 0 {
		o.Result = nimbus.ResultFailure
	}
	return o
}

// github is what the scheduler sees of GitHub: jobs with a status, and runners.
type github struct {
	mu      sync.Mutex
	jobs    map[int64]nimbus.ForgeEvent
	runners map[string]nimbus.Runner
	busy    map[int64]bool // by runner: it has a job
	asked   int
	checks  []nimbus.Check
	told    int // how often a check run was to be shown
	run     forgeRun
	err     error         // answers everything while set
	wait    time.Duration // for which there is no budget to register runners
	org     string        // with which runners are registered, "" for the repository
}

// RunnerOrg implements scheduler.Registrar.
func (g *github) RunnerOrg(nimbus.GitHubJob, []string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.org
}

func (g *github) setOrg(org string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.org = org
}

// RunnerWait implements scheduler.Pacer.
func (g *github) RunnerWait(nimbus.GitHubJob) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.wait
}

// add registers a runner behind Nimbus's back.
func (g *github) add(name string, id int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.runners[name] = nimbus.Runner{ID: id, Name: name}
}

func newGitHub() *github {
	return &github{jobs: map[int64]nimbus.ForgeEvent{}, runners: map[string]nimbus.Runner{}, busy: map[int64]bool{}}
}

func (g *github) CreateRunner(_ context.Context, _ nimbus.GitHubJob, name string, _ []string) (nimbus.Runner, string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil {
		return nimbus.Runner{}, "", g.err
	}
	if _, ok := g.runners[name]; ok {
		return nimbus.Runner{}, "", nimbus.Errorf(nimbus.CodeConflict, "already exists")
	}
	r := nimbus.Runner{ID: int64(len(g.runners) + 1), Name: name, Org: g.org}
	g.runners[name] = r
	return r, "jit-" + name, nil
}

func (g *github) JobStatus(_ context.Context, job nimbus.GitHubJob) (nimbus.ForgeEvent, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked++
	ev, ok := g.jobs[job.JobID]
	switch {
	case g.err != nil:
		return nimbus.ForgeEvent{}, g.err
	case !ok:
		return nimbus.ForgeEvent{}, nimbus.Errorf(nimbus.CodeNotFound, "no such job")
	}
	return ev, nil
}

func (g *github) RemoveRunner(_ context.Context, _ nimbus.GitHubJob, r nimbus.Runner) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.busy[g.runners[r.Name].ID] {
		return nimbus.Errorf(nimbus.CodeConflict, "it runs a job")
	}
	delete(g.runners, r.Name)
	return g.err
}

func (g *github) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.err = err
}

func (g *github) runnerNames() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Sorted(maps.Keys(g.runners))
}

// event is GitHub's job as an event of the given status; it is also what
// GitHub answers from now on.
func (w *world) event(id int64, status nimbus.ForgeStatus, edit ...func(*nimbus.ForgeEvent)) *nimbus.ForgeEvent {
	now, err := w.store.Now(w.t.Context())
	w.must(err)
	ev := nimbus.ForgeEvent{Status: status, Demand: status == nimbus.ForgeQueued, Name: fmt.Sprintf("job %d", id),
		Labels: []string{"nimbus"}, CreatedAt: now,
		Job: nimbus.GitHubJob{InstallationID: 1, Owner: "Octo", Repo: "hello", JobID: id, RunID: 1}}
	for _, e := range edit {
		e(&ev)
	}
	w.github.mu.Lock()
	defer w.github.mu.Unlock()
	w.github.jobs[id] = ev
	return &ev
}

func by(attemptID string) func(*nimbus.ForgeEvent) {
	return func(ev *nimbus.ForgeEvent) { ev.RunnerName, ev.RunnerID = nimbus.RunnerName(attemptID), 7 }
}

func byOther(ev *nimbus.ForgeEvent) { ev.RunnerName, ev.RunnerID = "somebody's", 8 }

func concluded(c string) func(*nimbus.ForgeEvent) {
	return func(ev *nimbus.ForgeEvent) { ev.Conclusion = c }
}

func labelled(labels ...string) func(*nimbus.ForgeEvent) {
	return func(ev *nimbus.ForgeEvent) { ev.Labels = labels }
}

// deliver sends an event under a new delivery id.
func (w *world) deliver(ev *nimbus.ForgeEvent) nimbus.DeliveryOutcome {
	w.t.Helper()
	w.serial++
	o, err := w.ProcessDelivery(w.t.Context(), nimbus.Delivery{ID: fmt.Sprint("delivery-", w.serial), Event: "workflow_job"}, ev)
	w.must(err)
	return o
}

// jobOf is our job for one of GitHub's.
func (w *world) jobOf(id int64) nimbus.Job {
	w.t.Helper()
	page, err := w.Jobs(w.t.Context(), nimbus.DefaultOrgID, scheduler.JobFilter{})
	w.must(err)
	for _, j := range page.Jobs {
		if j.GitHub.JobID == id {
			return j
		}
	}
	w.t.Fatalf("GitHub's job %d is not in the books", id)
	return nimbus.Job{}
}

// tokenBook mints tokens that can be told apart; the books know which work.
type tokenBook struct{ minted atomic.Int64 }

func (b *tokenBook) MintJob() (token, hash string) {
	n := b.minted.Add(1)
	return fmt.Sprintf("token-%d", n), fmt.Sprintf("hash-%d", n)
}

// works tells which attempt a token is of, "" for none.
func (w *world) works(token string) string {
	_, attemptID, err := w.store.JobToken(w.t.Context(), strings.Replace(token, "token", "hash", 1))
	if nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		w.must(err)
	}
	return attemptID
}
