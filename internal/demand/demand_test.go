package demand_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/bus"
	"github.com/nimbus-ci/nimbus/internal/demand"
	"github.com/nimbus-ci/nimbus/internal/forge"
	"github.com/nimbus-ci/nimbus/internal/forge/githubtest"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

var discard = slog.New(slog.DiscardHandler)

// world is a double of GitHub and Nimbus' side of it, on one clock that the
// test moves.
type world struct {
	*githubtest.Server
	t     *testing.T
	store *store.Store
	sched *scheduler.Service
	app   *forge.App
	hook  http.Handler

	redelivery *demand.Redelivery
	poller     *demand.Poller

	mu     sync.Mutex
	offset time.Duration
	refuse int // status that webhooks are answered with, 0 for what they deserve
	asked  int // webhooks that came
}

// Now implements nimbus.Clock.
func (w *world) Now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.offset)
}

func (w *world) pass(d time.Duration) {
	w.t.Helper()
	w.mu.Lock()
	w.offset += d
	offset := w.offset
	w.mu.Unlock()
	if err := w.store.OffsetClock(w.t.Context(), offset); err != nil {
		w.t.Fatal(err)
	}
	w.Sweep()
}

// ServeHTTP takes webhooks, unless they are to be refused.
func (w *world) ServeHTTP(out http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	refuse := w.refuse
	w.asked++
	w.mu.Unlock()
	if refuse != 0 {
		out.WriteHeader(refuse)
		return
	}
	w.hook.ServeHTTP(out, r)
}

func (w *world) answerWith(status int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refuse = status
}

// eachEngine runs f in a world on SQLite and on PostgreSQL.
func eachEngine(t *testing.T, f func(t *testing.T, w *world)) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		f(t, newWorld(t, "sqlite:"+filepath.Join(t.TempDir(), "nimbus.db")))
	})
	t.Run("postgres", func(t *testing.T) { t.Parallel(); f(t, newWorld(t, testenv.Postgres(t))) })
}

func newWorld(t *testing.T, dsn string) *world {
	t.Helper()
	w := &world{t: t}
	var err error
	if w.store, err = store.Open(t.Context(), store.Config{DSN: dsn}); err != nil {
		t.Fatal(err)
	}
	if w.Server, err = githubtest.Start(githubtest.Config{Clock: w, Limits: githubtest.GitHubLimits()}); err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	w.app, err = forge.NewApp(forge.AppConfig{AppID: w.AppID(), PrivateKey: w.PrivateKey(), BaseURL: w.URL(), Transport: transport, Clock: w})
	if err != nil {
		t.Fatal(err)
	}
	w.sched = scheduler.New(scheduler.Config{}, w.store, bus.NewInProcess(), w.app, identity.New(w.store, w), discard)
	w.hook = forge.NewWebhook(forge.WebhookConfig{
		Secrets: func() [][]byte { return [][]byte{w.WebhookSecret()} }, Process: w.sched.ProcessDelivery, Clock: w,
	})
	hook := httptest.NewServer(w)
	w.SetWebhook(hook.URL)
	w.restart()
	t.Cleanup(func() {
		for _, v := range w.Violations() {
			t.Errorf("violation: %s", v)
		}
		if over := w.Usage().Over; len(over) > 0 {
			t.Errorf("GitHub had to refuse calls: %v", over)
		}
		transport.CloseIdleConnections()
		w.Close()
		hook.Close()
		if err := w.store.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// restart forgets what is not in the database.
func (w *world) restart() {
	w.redelivery = &demand.Redelivery{Apps: w.apps(w.app), Store: w.store, Log: discard}
	w.poller = &demand.Poller{GitHub: w.app, Store: w.store, Jobs: w.sched, Log: discard}
}

// apps are the Apps of which there is one.
func (w *world) apps(only demand.Sender) func() map[int64]demand.Sender {
	return func() map[int64]demand.Sender { return map[int64]demand.Sender{w.AppID(): only} }
}

// push queues a run of so many jobs and waits until its webhooks were sent.
func (w *world) push(repo string, jobs int) []int64 {
	w.t.Helper()
	var yaml strings.Builder
	yaml.WriteString("on: push\njobs:\n")
	for i := range jobs {
		fmt.Fprintf(&yaml, "  j%d:\n    runs-on: [nimbus]\n    steps: [{run: echo}]\n", i)
	}
	ids, err := w.Push(w.t.Context(), repo, fstest.MapFS{".github/workflows/ci.yml": {Data: []byte(yaml.String())}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.flush()
	run, _ := w.Run(ids[0])
	var out []int64
	for _, j := range run.Jobs {
		out = append(out, j.ID)
	}
	return out
}

func (w *world) flush() {
	w.t.Helper()
	if err := w.Flush(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// books are how many of GitHub's jobs are in the books; there must be no others.
func (w *world) books(want ...int64) (have int) {
	w.t.Helper()
	known := map[int64]int{}
	var token string
	for {
		p, err := w.sched.Jobs(w.t.Context(), nimbus.DefaultOrgID, scheduler.JobFilter{PageSize: 200, PageToken: token})
		if err != nil {
			w.t.Fatal(err)
		}
		for _, j := range p.Jobs {
			known[j.GitHub.JobID]++
		}
		if token = p.NextPageToken; token == "" {
			break
		}
	}
	for _, id := range want {
		have += known[id]
		delete(known, id)
	}
	if len(known) > 0 {
		w.t.Errorf("jobs that are not GitHub's: %v", known)
	}
	return have
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// TestRedelivery: what did not get through is asked for, in batches, once.
func TestRedelivery(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		w.answerWith(503)
		lost := w.push("octo/a", 60)
		w.answerWith(0)
		kept := w.push("octo/a", 3)
		w.must(w.redelivery.Sweep(t.Context()))
		w.flush()
		if have := w.books(append(kept, lost...)...); have != 3 {
			t.Fatalf("%d jobs: they were asked for at once", have)
		}
		w.pass(time.Minute)
		for _, want := range []int{28, 53, 63} {
			w.must(w.redelivery.Sweep(t.Context()))
			w.flush()
			if have := w.books(append(kept, lost...)...); have != want {
				t.Fatalf("%d jobs, want %d", have, want)
			}
		}
		for range 10 {
			w.pass(time.Hour)
			w.must(w.redelivery.Sweep(t.Context()))
		}
		if n := w.Calls("apps/redeliver-webhook-delivery"); n != 60 {
			t.Errorf("asked %d times for 60 webhooks", n)
		}
	})
}

// TestLedgerDecides: a webhook that was processed, but whose answer GitHub did
// not hear, is not asked for.
func TestLedgerDecides(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		inner := w.hook
		w.hook = http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
			inner.ServeHTTP(httptest.NewRecorder(), r)
			out.WriteHeader(http.StatusBadGateway)
		})
		jobs := w.push("octo/a", 5)
		for range 3 {
			w.must(w.redelivery.Sweep(t.Context()))
			w.pass(time.Hour)
		}
		if n := w.Calls("apps/redeliver-webhook-delivery"); n != 0 || w.books(jobs...) != 5 {
			t.Errorf("asked %d times", n)
		}
	})
}

// failing is a GitHub that answers so many calls and no more.
type failing struct {
	demand.Sender
	left int
}

func (f *failing) FailedDeliveries(ctx context.Context, cursor string) ([]nimbus.SentDelivery, string, error) {
	if f.left--; f.left < 0 {
		return nil, "", nimbus.Errorf(nimbus.CodeUnavailable, "GitHub can't be reached")
	}
	return f.Sender.FailedDeliveries(ctx, cursor)
}

// TestResume: after two days away, a look that is cut off at every page goes on
// where it was, in another process.
func TestResume(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		w.answerWith(503)
		var lost []int64
		for range 9 { // 450 webhooks, five pages
			lost = append(lost, w.push("octo/a", 50)...)
			w.pass(5 * time.Hour)
		}
		w.answerWith(0)
		looks := 0
		for range 5 {
			w.restart()
			w.redelivery.Apps = w.apps(&failing{Sender: w.app, left: 1})
			if w.redelivery.Sweep(t.Context()) != nil {
				looks++
			}
		}
		if looks != 4 {
			t.Errorf("%d looks were cut off, want 4", looks)
		}
		w.restart()
		for range 30 {
			w.pass(time.Minute)
			w.must(w.redelivery.Sweep(t.Context()))
			w.flush()
		}
		if have := w.books(lost...); have != len(lost) {
			t.Errorf("%d of %d jobs are known", have, len(lost))
		}
		if n := w.Calls("apps/list-webhook-deliveries"); n > 5+5+30*2 {
			t.Errorf("%d pages were read", n)
		}
	})
}

// TestGivesUp: what is refused each time is asked for ever more rarely, and what
// GitHub has forgotten no more.
func TestGivesUp(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		w.answerWith(400)
		w.push("octo/a", 1)
		for range 12 * 24 * 2 {
			w.pass(30 * time.Minute)
			w.must(w.redelivery.Sweep(t.Context()))
			w.flush()
		}
		if n := w.Calls("apps/redeliver-webhook-delivery"); n != 12 {
			t.Errorf("asked %d times in twelve days", n)
		}
		w.pass(time.Hour)
		missing, err := w.store.Missing(t.Context(), w.AppID(), 10)
		if err != nil || len(missing) != 0 {
			t.Errorf("%v are still asked for, %v", missing, err)
		}
	})
}

// TestPolling: what was never sent is found in repositories that had jobs
// before; a webhook that comes late, or twice, changes nothing.
func TestPolling(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		first := w.push("octo/a", 1)
		held := true
		w.PlanDeliveries(func(githubtest.Delivery) githubtest.Plan {
			if held {
				return githubtest.Plan{Copies: 2, Hold: true}
			}
			return githubtest.Plan{}
		})
		late := w.push("octo/a", 3)
		held = false
		lost := w.push("octo/a", 120) // more than a page
		unseen := w.push("octo/b", 1) // of this repository nothing was heard
		all := append(append(first, late...), lost...)
		w.must(w.poller.Round(t.Context()))
		if have := w.books(all...); have != 1 {
			t.Errorf("%d jobs: runs so young are left to their webhooks", have)
		}
		w.pass(3 * time.Hour) // longer than events are believed unasked
		w.must(w.poller.Round(t.Context()))
		if have := w.books(all...); have != len(all) {
			t.Fatalf("%d of %d jobs are known", have, len(all))
		}
		w.ReleaseHeld(nil)
		w.flush()
		if have := w.books(all...); have != len(all) {
			t.Errorf("%d jobs after the late webhooks, want %d", have, len(all))
		}
		p, err := w.sched.Jobs(t.Context(), nimbus.DefaultOrgID, scheduler.JobFilter{States: []nimbus.State{nimbus.StateUnschedulable}})
		if err != nil || len(p.Jobs) != 0 {
			t.Errorf("%d jobs are not believed, %v", len(p.Jobs), err)
		}
		_ = unseen
		// What is in progress or over at GitHub is no demand.
		w.must(w.Steal(lost[0], "somebody-else"))
		w.pass(10 * time.Minute)
		w.must(w.poller.Round(t.Context()))
		j, err := w.sched.Jobs(t.Context(), nimbus.DefaultOrgID, scheduler.JobFilter{States: []nimbus.State{nimbus.StateUnschedulable}})
		if err != nil || len(j.Jobs) != 1 || j.Jobs[0].GitHub.JobID != lost[0] || j.Jobs[0].Reason.Code != nimbus.ReasonRanElsewhere {
			t.Errorf("%d jobs are unschedulable, want the stolen one: %v", len(j.Jobs), err)
		}
	})
}

// TestPollingIsFrugal: however many runs there are, polling spends no more than
// its share, and gets round to all of them.
func TestPollingIsFrugal(t *testing.T) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) { // what polling remembers is in no database
		w := newWorld(t, "sqlite:"+filepath.Join(t.TempDir(), "nimbus.db"))
		w.push("octo/a", 1)
		w.PlanDeliveries(func(githubtest.Delivery) githubtest.Plan { return githubtest.Plan{} })
		const runs = 340
		for range runs {
			if _, err := w.Push(t.Context(), "octo/a", fstest.MapFS{".github/workflows/ci.yml": {
				Data: []byte("on: push\njobs:\n  a:\n    runs-on: [nimbus]\n    steps: [{run: echo}]\n"),
			}}); err != nil {
				t.Fatal(err)
			}
		}
		w.pass(2 * time.Minute)
		calls := func() int {
			return w.Calls("actions/list-workflow-runs-for-repo") + w.Calls("actions/list-jobs-for-workflow-run")
		}
		w.must(w.poller.Round(t.Context()))
		if n := calls(); n < 200 || n > 300 {
			t.Errorf("%d calls at once", n)
		}
		before, began := calls(), w.Now()
		for range 40 {
			w.pass(30 * time.Second)
			w.must(w.poller.Round(t.Context()))
		}
		elapsed := w.Now().Sub(began) // real time goes on, too
		if n, most := calls()-before, int(1000*elapsed.Hours())+10; n > most {
			t.Errorf("%d calls in %v, want at most %d", n, elapsed, most)
		}
		p, err := w.sched.Jobs(t.Context(), nimbus.DefaultOrgID, scheduler.JobFilter{PageSize: 200})
		if err != nil {
			t.Fatal(err)
		}
		have := len(p.Jobs)
		for p.NextPageToken != "" {
			if p, err = w.sched.Jobs(t.Context(), nimbus.DefaultOrgID, scheduler.JobFilter{PageSize: 200, PageToken: p.NextPageToken}); err != nil {
				t.Fatal(err)
			}
			have += len(p.Jobs)
		}
		if have < 301 { // three pages of runs
			t.Errorf("%d jobs are known", have)
		}
	})
}
