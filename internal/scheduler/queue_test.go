package scheduler_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

func TestWhenAJobMayStart(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	in := func(seconds ...int) (out []time.Time) {
		for _, s := range seconds {
			out = append(out, now.Add(time.Duration(s)*time.Second))
		}
		return out
	}
	for name, try := range map[string]struct {
		ahead, free int
		ends        []time.Time
		want        int // seconds from now, where a job takes 10
	}{
		"room at once":                   {0, 1, nil, 0},
		"room for others too":            {2, 3, nil, 0},
		"one place, taken":               {0, 0, in(4), 4},
		"one place, others first":        {2, 0, in(4), 24},
		"two places in turns":            {3, 0, in(4, 7), 17},
		"a free one comes round first":   {1, 1, in(100), 10},
		"and goes round until the other": {12, 1, in(100), 110},
		"the order of ends is any":       {0, 0, in(9, 3, 6), 3},
	} {
		got := scheduler.StartAt(now, try.ahead, try.free, slices.Clone(try.ends), 10*time.Second)
		if want := now.Add(time.Duration(try.want) * time.Second); !got.Equal(want) {
			t.Errorf("%s: in %v, want %d s", name, got.Sub(now), try.want)
		}
	}
}

func (w *world) place(id string) nimbus.QueuePlace {
	w.t.Helper()
	p, err := w.Place(w.t.Context(), nimbus.DefaultOrgID, id)
	w.must(err)
	if p == nil {
		w.t.Fatalf("%s has no place", id)
	}
	return *p
}

// smallHost has room for one job.
func (w *world) smallHost() string {
	w.t.Helper()
	w.serial++
	inv := inventory(nimbus.ExecutorMicroVM)
	inv.CPUs, inv.MemoryMiB, inv.Sandboxes = 1, 1024, 1
	h, err := w.RegisterHost(w.t.Context(), "small", "v1", inv)
	w.must(err)
	return h.ID
}

// startOne has a small host take one job, up to running.
func (w *world) startOne(host string) nimbus.Assignment {
	w.t.Helper()
	r, err := w.Poll(w.t.Context(), host, nimbus.Capacity{CPUs: 1, MemoryMiB: 1024, Sandboxes: 1}, 0)
	w.must(err)
	if len(r.Offers) != 1 {
		w.t.Fatalf("offered %v", r.Offers)
	}
	a, err := w.Accept(w.t.Context(), host, r.Offers[0].Lease)
	w.must(err)
	w.must(w.ReportPhase(w.t.Context(), host, a.Lease, nimbus.PhaseStarted, nimbus.Start{}))
	return a
}

func TestPlaceInTheQueue(t *testing.T) {
	eachEngine(t, scheduler.Config{Window: 2}, func(t *testing.T, w *world) {
		host := w.smallHost()
		first := w.submit(nimbus.Spec{})
		if p := w.place(first.ID); p.Ahead != 0 || p.StartAt.IsZero() {
			t.Errorf("with room and nobody before it: %+v", p)
		}
		lease := w.startOne(host).Lease
		if p, err := w.Place(t.Context(), nimbus.DefaultOrgID, first.ID); p != nil || err != nil {
			t.Errorf("a job that runs has a place: %+v %v", p, err)
		}
		var waiting []nimbus.Job
		for range 6 {
			w.skip(2 * time.Millisecond) // ids tell what was first, to the millisecond
			waiting = append(waiting, w.submit(nimbus.Spec{}))
		}
		w.skip(3 * time.Second)
		if p := w.place(waiting[0].ID); !p.StartAt.IsZero() || p.Unknown == "" {
			t.Errorf("nobody knows yet how long a job takes, but: %+v", p)
		}
		// One took a minute, and what a busy machine added to it: so will the others.
		w.skip(17 * time.Second)
		w.must(errOf(w.Heartbeat(t.Context(), host, []nimbus.Lease{lease})))
		w.skip(20 * time.Second)
		w.must(errOf(w.Heartbeat(t.Context(), host, []nimbus.Lease{lease})))
		w.skip(20 * time.Second)
		w.must(w.Finish(t.Context(), host, lease, exited(0)))
		done := w.job(first.ID).Timeline
		took := done.FinishedAt.Sub(done.AcceptedAt)
		began := w.job(w.startOne(host).JobID).Timeline.AcceptedAt
		w.skip(3 * time.Second)
		for i, j := range waiting[1:] {
			p := w.place(j.ID)
			want := began.Add(time.Duration(i+1) * took)
			if off := p.StartAt.Sub(want); p.Ahead != i || p.AtLeast || off.Abs() > 5*time.Second {
				t.Errorf("job %d of those that wait (%s): %+v, which is off by %v", i, w.job(j.ID).State, p, off)
			}
		}
		if took < time.Minute {
			t.Errorf("a job that took a minute is said to have taken %v", took)
		}
		_, err := w.Place(t.Context(), "org_00000000000000000000000001", waiting[1].ID)
		w.want(nimbus.CodeNotFound, err)
		w.must(w.CordonHost(t.Context(), admin, host, true))
		if p := w.place(waiting[2].ID); !p.StartAt.IsZero() || !strings.Contains(p.Unknown, "is cordoned: `nimbus hosts uncordon ") {
			t.Errorf("with its host cordoned: %+v", p)
		}
		w.skip(2 * nimbus.LeaseDuration)
		if p := w.place(waiting[2].ID); p.Unknown != "no host that could run it is here" {
			t.Errorf("with its host cordoned and away: %+v", p)
		}
	})
}

func errOf[T any](_ T, err error) error { return err }

func TestQueueByClass(t *testing.T) {
	eachEngine(t, scheduler.Config{Window: 2}, func(t *testing.T, w *world) {
		host := w.smallHost()
		other := w.org("other")
		w.submit(nimbus.Spec{})
		w.startOne(host)
		oldest := w.submit(nimbus.Spec{})
		for range 4 {
			w.skip(time.Second)
			w.submit(nimbus.Spec{})
		}
		_, err := w.Submit(t.Context(), admin, scheduler.Submission{Class: nimbus.Class{CPUs: 512}, Spec: nimbus.Spec{Command: []string{"true"}}})
		w.must(err)
		got, err := w.Queue(t.Context(), nimbus.DefaultOrgID)
		w.must(err)
		if len(got) != 2 {
			t.Fatalf("%+v", got)
		}
		common, large := got[0], got[1]
		if at, _ := nimbus.IDTime(nimbus.PrefixJob, oldest.ID); !common.OldestAt.Equal(at) {
			t.Errorf("the oldest came at %v, not %v", common.OldestAt, at)
		}
		common.OldestAt, common.Class = time.Time{}, nimbus.Class{}
		if diff := cmp.Diff(nimbus.QueueClass{Waiting: 5, Queued: 2, Running: 1, HostsReady: 1, HostsAll: 1}, common); diff != "" {
			t.Error(diff)
		}
		if large.Unschedulable != 1 || large.Waiting != 1 || large.HostsAll != 0 {
			t.Errorf("%+v", large)
		}
		if got, err := w.Queue(t.Context(), other); err != nil || len(got) != 0 {
			t.Errorf("another org sees %+v %v", got, err)
		}
	})
}

func TestWeights(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		w.deliver(w.event(1, nimbus.ForgeQueued))
		set := func(repo string, percent int) error {
			return w.SetWeight(t.Context(), admin, nimbus.DefaultOrgID, scheduler.Weight{Repo: repo, Percent: percent})
		}
		w.want(nimbus.CodeInvalid, set("", 0))
		w.want(nimbus.CodeInvalid, set("", scheduler.MaxWeight+1))
		w.want(nimbus.CodeNotFound, set("octo/nowhere", 200))
		w.want(nimbus.CodeNotFound, w.SetWeight(t.Context(), admin, w.org("other"), scheduler.Weight{Repo: "octo/hello", Percent: 200}))
		w.must(set("", 300))
		w.must(set("Octo/Hello", 50))
		got, next, err := w.Weights(t.Context(), nimbus.DefaultOrgID, 1, "")
		w.must(err)
		want := []scheduler.Weight{{Percent: 300}, {Repo: "octo/hello", Percent: 50}}
		if diff := cmp.Diff(want, got); diff != "" || next != "" {
			t.Error(diff, next)
		}
		// Promotions keep it.
		w.submit(nimbus.Spec{})
		w.must(set("octo/hello", 100))
		got, _, err = w.Weights(t.Context(), nimbus.DefaultOrgID, 0, "")
		w.must(err)
		if diff := cmp.Diff(want[:1], got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestLimits(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		host := w.host()
		set := func(kind scheduler.LimitKind, name string, most int) error {
			return w.SetLimit(t.Context(), admin, scheduler.Limit{OrgID: nimbus.DefaultOrgID, Kind: kind, Name: name, Most: most})
		}
		w.want(nimbus.CodeInvalid, set("host", "x", 1))
		w.want(nimbus.CodeInvalid, set(scheduler.LimitOrg, "x", 1))
		w.want(nimbus.CodeInvalid, set(scheduler.LimitLabel, "", 1))
		for _, bogus := range []string{"hello", "octo/", "octo/hello/world", "octo/*", "octo/he llo"} {
			w.want(nimbus.CodeInvalid, set(scheduler.LimitRepo, bogus, 1))
			w.want(nimbus.CodeInvalid, w.SetWeight(t.Context(), admin, nimbus.DefaultOrgID, scheduler.Weight{Repo: bogus, Percent: 50}))
		}
		for _, bogus := range []string{"gpus", "cpu:many", "windows-latest", "cap:", "two words"} {
			w.want(nimbus.CodeInvalid, set(scheduler.LimitLabel, bogus, 1))
		}
		w.want(nimbus.CodeInvalid, set(scheduler.LimitOrg, "", -1))
		w.want(nimbus.CodeNotFound, w.DropLimit(t.Context(), admin, nimbus.DefaultOrgID, scheduler.LimitOrg, ""))
		var leases []nimbus.Lease
		offered := func() int {
			offers := w.poll(host).Offers
			for _, o := range offers {
				_, err := w.Accept(t.Context(), host, o.Lease)
				w.must(err)
				leases = append(leases, o.Lease)
			}
			return len(offers)
		}
		w.must(set(scheduler.LimitOrg, "", 2))
		var waiting nimbus.Job
		for range 5 {
			waiting = w.submit(nimbus.Spec{})
		}
		if n := offered(); n != 2 {
			t.Fatalf("%d jobs are offered with a limit of 2", n)
		}
		if p := w.place(waiting.ID); !strings.Contains(p.Unknown, "the limit of 2 jobs") {
			t.Errorf("why it waits: %+v", p)
		}
		w.must(set(scheduler.LimitOrg, "", 3))
		if n := offered(); n != 1 {
			t.Fatalf("%d more jobs are offered with a limit of 3", n)
		}
		// One that is made anew doesn't count what was before it, nor do those
		// jobs give it back places that they never took.
		w.must(w.DropLimit(t.Context(), admin, nimbus.DefaultOrgID, scheduler.LimitOrg, ""))
		w.must(set(scheduler.LimitOrg, "", 0))
		for _, l := range leases {
			w.must(w.Finish(t.Context(), host, l, exited(0)))
		}
		limits, _, err := w.Limits(t.Context(), nimbus.DefaultOrgID, 0, "")
		w.must(err)
		if len(limits) != 1 || limits[0].Used != 0 || limits[0].Most != 0 {
			t.Fatalf("%+v", limits)
		}
		w.must(set(scheduler.LimitLabel, "GPU", 7))
		w.must(set(scheduler.LimitRepo, "Octo/hello", 8))
		var names []string
		for next := ""; len(names) == 0 || next != ""; {
			var page []scheduler.Limit
			page, next, err = w.Limits(t.Context(), nimbus.DefaultOrgID, 1, next)
			w.must(err)
			names = append(names, page[0].String())
		}
		if diff := cmp.Diff([]string{"label gpu", "org", "repo octo/hello"}, names); diff != "" {
			t.Error(diff)
		}
		j := w.submit(nimbus.Spec{})
		w.expect(j.ID, nimbus.StatePending)
		w.must(w.DropLimit(t.Context(), admin, nimbus.DefaultOrgID, scheduler.LimitOrg, ""))
		w.expect(j.ID, nimbus.StateQueued)
	})
}
