package demand_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/demand"
	"github.com/nimbus-ci/nimbus/internal/forge"
	"github.com/nimbus-ci/nimbus/internal/forge/githubtest"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

// scaleSet has jobs come by a scale set alone: GitHub sends no webhooks.
func (w *world) scaleSet() nimbus.ScaleSet {
	w.t.Helper()
	ctx := w.t.Context()
	w.Subscribe()
	w.AddRepository("octo", "a")
	w.Grant(map[string]string{"actions": "read", "administration": "write", "checks": "write", "metadata": "read", "organization_self_hosted_runners": "write"})
	set := nimbus.ScaleSet{ID: nimbus.NewID(nimbus.PrefixScaleSet, w.Now()), InstallationID: 2002, Organization: "octo", Group: "Default", GroupID: 1,
		Name: "nimbus", Labels: []string{"nimbus", "linux"}, MaxRunners: 100}
	var err error
	set.GitHubID, err = w.app.MakeScaleSet(ctx, set)
	w.must(err)
	w.must(w.store.CreateScaleSet(ctx, set, nimbus.AuditEvent{}))
	w.app.SetPlaces(&forge.Places{ScaleSets: []nimbus.ScaleSet{set}})
	return set
}

// listen starts listening, and returns what ends it.
func (w *world) listen() (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	ended := make(chan struct{})
	l := &demand.Listener{GitHub: w.app, Store: w.store, Jobs: w.sched, Owner: "test", Log: discard, LookAgain: 50 * time.Millisecond, Pause: 50 * time.Millisecond}
	go func() {
		defer close(ended)
		l.Run(ctx)
	}()
	stop = func() { cancel(); <-ended }
	w.t.Cleanup(stop)
	return stop
}

// eventually waits until something is so.
func (w *world) eventually(what string, so func() bool) {
	w.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	late := time.After(30 * time.Second)
	for !so() {
		select {
		case <-tick.C:
		case <-late:
			w.t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// in are how many jobs are in a state.
func (w *world) in(state nimbus.State) int {
	w.t.Helper()
	p, err := w.sched.Jobs(w.t.Context(), nimbus.DefaultOrgID, scheduler.JobFilter{PageSize: 200, States: []nimbus.State{state}})
	w.must(err)
	return len(p.Jobs)
}

// idle waits until all messages were dealt with.
func (w *world) idle() {
	w.t.Helper()
	w.eventually("no message is left", func() bool { return w.ScaleSets()["nimbus"] == 0 })
}

// runs has a host accept jobs and their runners begin; it returns them.
func (w *world) runs(host string, n int) (running []*githubtest.Connected, leases []nimbus.Lease) {
	w.t.Helper()
	for len(leases) < n {
		running, leases = w.runsMore(host, n-len(leases), running, leases)
	}
	return running, leases
}

func (w *world) runsMore(host string, n int, running []*githubtest.Connected, leases []nimbus.Lease) ([]*githubtest.Connected, []nimbus.Lease) {
	w.t.Helper()
	ctx := w.t.Context()
	offers, err := w.sched.Poll(ctx, host, nimbus.Capacity{CPUs: n, MemoryMiB: n << 10, Sandboxes: n}, 10*time.Second)
	w.must(err)
	if len(offers.Offers) == 0 {
		w.t.Fatalf("no offer, want %d", n)
	}
	for _, o := range offers.Offers { // all at once: they lapse in seconds
		_, err := w.sched.Accept(ctx, host, o.Lease)
		w.must(err)
	}
	for _, o := range offers.Offers {
		_, jit, err := w.sched.CreateRunner(ctx, host, o.Lease)
		w.must(err)
		c, err := w.Connect(jit)
		w.must(err)
		if _, ok, err := c.Job(); err != nil || !ok {
			w.t.Fatalf("a runner of the scale set has no job: %v", err)
		}
		running, leases = append(running, c), append(leases, o.Lease)
	}
	return running, leases
}

func (w *world) bigHost() string {
	w.t.Helper()
	h, err := w.sched.RegisterHost(w.t.Context(), "host", "v1", nimbus.Inventory{Arch: "amd64", CPUs: 8, MemoryMiB: 8 << 10,
		Executors: []nimbus.ExecutorStatus{{Name: nimbus.ExecutorMicroVM, Available: true}}})
	w.must(err)
	return h.ID
}

// TestScaleSet: without a single webhook, jobs are heard of, acquired, run by
// runners of the scale set, and ended, each once: whatever comes twice, whose
// answers get lost, whose tokens end, and after a time in which nobody listened.
func TestScaleSet(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		w.scaleSet()
		stop := w.listen()
		host := w.bigHost()
		jobs := w.push("octo/a", 3)
		w.eventually("three jobs are in the books", func() bool { return w.books(jobs...) == 3 })
		running, leases := w.runs(host, 3)
		w.eventually("three jobs run", func() bool { return w.in(nimbus.StateRunning) == 3 })

		// Trouble: what was said is said again, acknowledgements get lost, tokens end.
		w.Refuse(githubtest.Refusal{Operation: "service/delete-message", Status: http.StatusBadGateway, Times: 2, Done: true})
		w.Refuse(githubtest.Refusal{Operation: "service/next-message", Status: http.StatusInternalServerError})
		w.Refuse(githubtest.Refusal{Operation: "service/register", Status: http.StatusForbidden})
		w.ExpireServiceTokens()
		w.RepeatScaleSetMessages()
		w.idle()
		for i, c := range running {
			w.must(c.Finish("success"))
			w.must(w.sched.Finish(t.Context(), host, leases[i], nimbus.Outcome{Result: nimbus.ResultSuccess}))
		}
		w.eventually("three jobs are over", func() bool { return w.in(nimbus.StateFinished) == 3 })

		// While nobody listens, two more come.
		w.idle()
		stop()
		more := w.push("octo/a", 2)
		all := slices.Concat(jobs, more)
		if n := w.books(all...); n != 3 {
			t.Fatalf("%d jobs in the books while nobody listens", n)
		}
		w.listen()
		w.eventually("what came meanwhile is heard", func() bool { return w.books(all...) == 5 })
		w.idle()
		w.RepeatScaleSetMessages()
		w.idle()
		running, _ = w.runs(host, 2)
		w.eventually("two jobs run", func() bool { return w.in(nimbus.StateRunning) == 2 })
		for _, c := range running {
			w.must(c.Finish("failure"))
		}
		w.eventually("all jobs are over", func() bool { return w.in(nimbus.StateFinished) == 5 })
		for _, id := range all {
			if n := w.Starts(id); n != 1 {
				t.Errorf("job %d began %d times", id, n)
			}
		}
		w.books(all...)
		sets, err := w.store.ScaleSets(t.Context())
		w.must(err)
		if s := sets[0].State; s.HeardAt.IsZero() || s.Session == "" {
			t.Errorf("state %+v", s)
		}
	})
}

// TestMessageThatCantBeHandledComesAgain: a message is acknowledged once what it
// tells of is in the books, and not before.
func TestMessageThatCantBeHandledComesAgain(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		w.scaleSet()
		const lists = "actions/list-jobs-for-workflow-run"
		w.Refuse(githubtest.Refusal{Operation: lists, Status: http.StatusBadGateway, Times: -1})
		w.listen()
		jobs := w.push("octo/a", 2)
		w.eventually("the run was asked for twice", func() bool { return w.Calls(lists) >= 2 })
		if w.ScaleSets()["nimbus"] == 0 {
			t.Fatal("the message is acknowledged although the books know nothing")
		}
		w.eventually("the trouble is told", func() bool {
			sets, err := w.store.ScaleSets(t.Context())
			return err == nil && strings.Contains(sets[0].State.Trouble, "502")
		})
		w.Accept()
		w.eventually("both are in the books", func() bool { return w.books(jobs...) == 2 })
		w.eventually("the trouble is over", func() bool {
			sets, err := w.store.ScaleSets(t.Context())
			return err == nil && sets[0].State.Trouble == ""
		})
	})
}

// TestOneListens: GitHub takes one listener. That of a leader which is gone is
// ended by the next; somebody else's is waited for.
func TestOneListens(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		set := w.scaleSet()
		dead, err := w.app.OpenSession(t.Context(), set, "dead leader")
		w.must(err)
		w.must(w.store.SaveScaleSetSession(t.Context(), set.ID, dead.ID))
		stop := w.listen()
		jobs := w.push("octo/a", 1)
		w.eventually("the next leader hears", func() bool { return w.books(jobs...) == 1 })
		w.idle()
		if n := w.Calls("service/create-session"); n != 2 {
			t.Errorf("it took %d sessions: there was a conflict", n-1)
		}
		stop()

		stranger, err := w.app.OpenSession(t.Context(), set, "stranger")
		w.must(err)
		w.listen()
		w.eventually("it is told who is in the way", func() bool {
			sets, err := w.store.ScaleSets(t.Context())
			return err == nil && strings.Contains(sets[0].State.Trouble, "stranger")
		})
		w.must(w.app.CloseSession(t.Context(), set, stranger.ID))
		jobs = append(jobs, w.push("octo/a", 1)...)
		w.eventually("it hears once the other is gone", func() bool { return w.books(jobs...) == 2 })
	})
}

// TestScaleSetEnds: a scale set that is forgotten is listened to no more.
func TestScaleSetEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "sqlite:"+t.TempDir()+"/nimbus.db")
	set := w.scaleSet()
	w.listen()
	w.eventually("it listens", func() bool {
		sets, err := w.store.ScaleSets(t.Context())
		return err == nil && sets[0].State.Session != ""
	})
	w.must(w.store.DeleteScaleSet(t.Context(), set.ID, nimbus.AuditEvent{}))
	w.eventually("the session is closed", func() bool { return w.Calls("service/delete-session") == 1 })
	w.must(w.app.DropScaleSet(t.Context(), set))
	w.must(w.app.DropScaleSet(t.Context(), set))
	if len(w.ScaleSets()) != 0 {
		t.Error("it is still there at GitHub")
	}
}
