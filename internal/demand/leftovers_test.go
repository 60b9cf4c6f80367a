package demand_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/demand"
)

// TestLeftovers: runners whose attempt is over go; those that are unknown and
// offline go at the second look; those that are in use, or none of Nimbus', stay.
func TestLeftovers(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		inv := nimbus.Inventory{Arch: "amd64", CPUs: 8, MemoryMiB: 8 << 10, Executors: []nimbus.ExecutorStatus{{Name: nimbus.ExecutorMicroVM, Available: true}}}
		h, err := w.sched.RegisterHost(ctx, "host", "v1", inv)
		w.must(err)
		w.push("octo/a", 3)
		offers, err := w.sched.Poll(ctx, h.ID, nimbus.Capacity{CPUs: 3, MemoryMiB: 3 << 10, Sandboxes: 3}, 0)
		w.must(err)
		if len(offers.Offers) != 3 {
			t.Fatalf("%d offers", len(offers.Offers))
		}
		for _, o := range offers.Offers { // all at once: they lapse in seconds
			_, err := w.sched.Accept(ctx, h.ID, o.Lease)
			w.must(err)
		}
		var jits []string
		for _, o := range offers.Offers {
			_, jit, err := w.sched.CreateRunner(ctx, h.ID, o.Lease)
			w.must(err)
			jits = append(jits, jit)
		}
		// One is over and could not be deregistered, one runs, one is new.
		w.must(w.sched.Finish(ctx, h.ID, offers.Offers[0].Lease, nimbus.Outcome{Result: nimbus.ResultSuccess}))
		_, err = w.Connect(jits[1])
		w.must(err)
		over := nimbus.RunnerName(offers.Offers[0].AttemptID)
		job := nimbus.GitHubJob{InstallationID: 2002, Owner: "octo", Repo: "a"}
		unknown := nimbus.RunnerName(nimbus.NewID(nimbus.PrefixAttempt, w.Now()))
		for _, name := range []string{unknown, "somebody-elses"} {
			_, _, err := w.app.CreateRunner(ctx, job, name, []string{"other"})
			w.must(err)
		}
		l := &demand.Leftovers{GitHub: w.app, Store: w.store, Books: w.sched, Log: discard}
		listed := func() map[string]bool {
			out := map[string]bool{}
			for _, r := range w.Runners() {
				out[r.Name] = true
			}
			return out
		}
		w.must(l.Sweep(ctx))
		if len(listed()) != 5 {
			t.Fatalf("%v are left: it was too early", listed())
		}
		w.pass(11 * time.Minute)
		l = &demand.Leftovers{GitHub: w.app, Store: w.store, Books: w.sched, Log: discard}
		w.must(l.Sweep(ctx))
		if left := listed(); left[over] || !left[unknown] || !left["somebody-elses"] {
			t.Errorf("%v are left", left)
		}
		w.must(l.Sweep(ctx))
		if left := listed(); left[unknown] || !left["somebody-elses"] {
			t.Errorf("%v are left after the second look", left)
		}
	})
}

// TestLeftoversOfAnOrganisation: runners that are left over are found where they
// were registered.
func TestLeftoversOfAnOrganisation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "sqlite:"+t.TempDir()+"/nimbus.db")
	w.scaleSet()
	ctx := t.Context()
	job := nimbus.GitHubJob{InstallationID: 2002, Owner: "octo", Repo: "a"}
	for _, name := range []string{nimbus.RunnerName(nimbus.NewID(nimbus.PrefixAttempt, w.Now())), "somebody-elses"} {
		r, _, err := w.app.CreateRunner(ctx, job, name, []string{"nimbus"})
		w.must(err)
		if r.Org != "octo" {
			t.Fatalf("%+v is not the organisation's", r)
		}
	}
	l := &demand.Leftovers{GitHub: w.app, Store: w.store, Books: w.sched, Log: discard,
		Organizations: func() []nimbus.ForgeRepo { return []nimbus.ForgeRepo{{InstallationID: 2002, Owner: "octo"}} }}
	w.must(l.Sweep(ctx))
	w.must(l.Sweep(ctx))
	if left := w.Runners(); len(left) != 1 || left[0].Name != "somebody-elses" {
		t.Errorf("%v are left", left)
	}
}

// twoServers are two GitHubs whose runners have ids of their own.
type twoServers struct {
	runners map[nimbus.ForgeRepo][]nimbus.ForgeRunner
	removed []string
}

func (s *twoServers) Runners(_ context.Context, repo nimbus.ForgeRepo, _ int) ([]nimbus.ForgeRunner, bool, error) {
	return s.runners[repo], false, nil
}

func (s *twoServers) RemoveRunner(_ context.Context, job nimbus.GitHubJob, r nimbus.Runner) error {
	s.removed = append(s.removed, job.Owner+" "+r.Name)
	return nil
}

func (*twoServers) RunnerUse(context.Context, string) (known, over bool, err error) {
	return false, false, nil
}

func (s *twoServers) Now(context.Context) (time.Time, error) { return time.Now(), nil }

func (s *twoServers) SeenRepositories(context.Context, time.Duration, int) (out []nimbus.ForgeRepo, err error) {
	for repo := range s.runners {
		out = append(out, repo)
	}
	return out, nil
}

// TestLeftoversOfTwoServers: a runner is not taken for one that another GitHub
// gave the same id.
func TestLeftoversOfTwoServers(t *testing.T) {
	t.Parallel()
	offline := func() []nimbus.ForgeRunner {
		return []nimbus.ForgeRunner{{Runner: nimbus.Runner{ID: 5, Name: nimbus.RunnerName(nimbus.NewID(nimbus.PrefixAttempt, time.Now()))}}}
	}
	one, other := nimbus.ForgeRepo{InstallationID: 1, Owner: "one", Name: "a"}, nimbus.ForgeRepo{InstallationID: 2, Owner: "other", Name: "a"}
	s := &twoServers{runners: map[nimbus.ForgeRepo][]nimbus.ForgeRunner{one: offline(), other: nil}}
	l := &demand.Leftovers{GitHub: s, Store: s, Books: s, Log: discard}
	sweep := func(want ...string) {
		t.Helper()
		s.removed = nil
		if err := l.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, s.removed); diff != "" {
			t.Errorf("removed (-want +got):\n%s", diff)
		}
	}
	sweep()
	gone := "one " + s.runners[one][0].Name
	s.runners[other] = offline() // it has only just come
	sweep(gone)
	s.runners[one] = nil
	sweep("other " + s.runners[other][0].Name)
}
