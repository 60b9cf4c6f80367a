package scheduler_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

func TestNativeJobFromSubmitToDestroyed(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		host := w.host()
		j := w.submit(nimbus.Spec{Command: []string{"echo", "hi"}, Timeout: time.Hour})
		if j.State != nimbus.StateQueued || j.Class.Executor != nimbus.ExecutorMicroVM || j.Name != "echo hi" {
			t.Fatalf("after submit: %+v", j)
		}
		a := w.accept(host)
		if a.JobID != j.ID || a.Timeout != time.Hour || a.JobToken == "" || w.works(a.JobToken) != "" {
			t.Fatalf("assignment: %+v", a)
		}
		for _, p := range []nimbus.Phase{nimbus.PhaseSandboxReady, nimbus.PhaseStarted, nimbus.PhaseFirstOutput} {
			w.must(w.ReportPhase(t.Context(), host, a.Lease, p, nimbus.Start{}))
			w.must(w.ReportPhase(t.Context(), host, a.Lease, p, nimbus.Start{}))
		}
		for _, s := range []nimbus.Start{{Origin: "elsewhere"}, {Origin: nimbus.OriginWarm, Took: -time.Second}} {
			w.want(nimbus.CodeInvalid, w.ReportPhase(t.Context(), host, a.Lease, nimbus.PhaseSandboxReady, s))
		}
		w.expect(j.ID, nimbus.StateRunning)
		if got := w.works(a.JobToken); got != a.AttemptID {
			t.Errorf("the token of a running job is %s", got)
		}
		o := exited(3)
		o.LogLines = 2
		w.must(w.Finish(t.Context(), host, a.Lease, o))
		w.must(w.Finish(t.Context(), host, a.Lease, o))
		w.must(w.ReportPhase(t.Context(), host, a.Lease, nimbus.PhaseDestroyed, nimbus.Start{}))
		if got := w.works(a.JobToken); got != "" {
			t.Errorf("the token of a finished job is %s", got)
		}
		key, err := w.LogLease(t.Context(), host, a.Lease)
		w.must(err)
		w.must(w.LogStored(t.Context(), key, 1))
		if w.job(j.ID).LogComplete {
			t.Error("the log is complete with one of two lines")
		}
		w.must(w.LogStored(t.Context(), key, 2))
		done := w.expect(j.ID, nimbus.StateFinished, nimbus.ResultFailure)
		if done.ExitCode == nil || *done.ExitCode != 3 || !done.LogComplete || done.LogLines != 2 || done.HostID != host || done.AttemptCount != 1 {
			t.Errorf("finished: %+v", done)
		}
		tl := done.Timeline
		for i, at := range []time.Time{tl.ReceivedAt, tl.AdmittedAt, tl.QueuedAt, tl.OfferedAt, tl.AcceptedAt, tl.SandboxReadyAt,
			tl.RunningAt, tl.FirstOutputAt, tl.FinishedAt, tl.DestroyedAt} {
			if at.IsZero() {
				t.Errorf("time %d of the timeline is missing", i)
			}
		}
		events, err := w.Events(t.Context(), nimbus.DefaultOrgID, j.ID)
		w.must(err)
		var kinds []string
		for i, e := range events {
			kinds = append(kinds, e.Kind)
			if e.Seq != int64(i+1) || e.Actor == "" {
				t.Errorf("event %d: %+v", i, e)
			}
		}
		want := []string{"pending", "queued", "offered", "accepted", "sandbox_ready", "running", "first_output", "finished", "destroyed"}
		if diff := cmp.Diff(want, kinds); diff != "" {
			t.Errorf("history (-want +got):\n%s", diff)
		}
	})
}

func TestStaleFenceIsRefusedEverywhere(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		host, other := w.host(), w.host()
		w.submit(nimbus.Spec{})
		l := w.start(host).Lease
		stale := nimbus.Lease{AttemptID: l.AttemptID, Fence: l.Fence - 1}
		unknown := nimbus.Lease{AttemptID: nimbus.NewID(nimbus.PrefixAttempt, time.Now()), Fence: l.Fence}
		ctx := t.Context()
		for _, try := range []struct {
			host  string
			lease nimbus.Lease
		}{{host, stale}, {other, l}, {host, unknown}} {
			_, err := w.Accept(ctx, try.host, try.lease)
			w.want(nimbus.CodeFenced, err)
			w.want(nimbus.CodeFenced, w.ReportPhase(ctx, try.host, try.lease, nimbus.PhaseFirstOutput, nimbus.Start{}))
			w.want(nimbus.CodeFenced, w.ReportPhase(ctx, try.host, try.lease, nimbus.PhaseDestroyed, nimbus.Start{}))
			w.want(nimbus.CodeFenced, w.Finish(ctx, try.host, try.lease, exited(0)))
			_, _, err = w.CreateRunner(ctx, try.host, try.lease)
			w.want(nimbus.CodeFenced, err)
			_, err = w.LogLease(ctx, try.host, try.lease)
			w.want(nimbus.CodeFenced, err)
			st, err := w.Heartbeat(ctx, try.host, []nimbus.Lease{try.lease})
			w.must(err)
			if st[0].Verdict != nimbus.VerdictFenced {
				t.Errorf("heartbeat of a stale lease: %s", st[0].Verdict)
			}
		}
		st, err := w.Heartbeat(ctx, host, []nimbus.Lease{stale, l}) // what one renews is not the other's
		w.must(err)
		if st[0].Verdict != nimbus.VerdictFenced || st[1].Verdict != nimbus.VerdictKeep {
			t.Errorf("heartbeat of a stale lease beside the one that holds: %+v", st)
		}
		w.must(w.Finish(ctx, host, l, exited(0)))
	})
}

func TestOfferLapsesAndLateAcceptWinsUntilTheNextOffer(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		a, b := w.host(), w.host()
		j := w.submit(nimbus.Spec{})
		first := w.offer(a)
		if again := w.offer(a); again.Lease != first.Lease {
			t.Fatalf("the offer was not made again but %v", again)
		}
		if r := w.poll(b); len(r.Offers) != 0 {
			t.Fatal("two hosts hold an offer of one job")
		}
		w.pass(nimbus.OfferTimeout + time.Second)
		w.expect(j.ID, nimbus.StateQueued)
		_, err := w.Accept(t.Context(), a, first.Lease) // late
		w.must(err)
		_, err = w.Accept(t.Context(), a, first.Lease) // and twice
		w.must(err)
		w.expect(j.ID, nimbus.StateAccepted)

		k := w.submit(nimbus.Spec{})
		lapsed := w.offer(b)
		w.pass(nimbus.OfferTimeout + time.Second)
		if r := w.poll(b); len(r.Offers) != 0 {
			t.Error("a host that let an offer lapse is offered the next at once")
		}
		newer := w.offer(a)
		if newer.Fence <= lapsed.Fence {
			t.Errorf("fence went from %d to %d", lapsed.Fence, newer.Fence)
		}
		_, err = w.Accept(t.Context(), b, lapsed.Lease)
		w.want(nimbus.CodeFenced, err)
		_, err = w.Accept(t.Context(), a, newer.Lease)
		w.must(err)
		if got := w.expect(k.ID, nimbus.StateAccepted).AttemptCount; got != 1 {
			t.Errorf("%d attempts are counted, a lapsed offer is none", got)
		}
	})
}

func TestLeaseExpiry(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		host := w.host()
		ctx := t.Context()

		// Before it runs: again, until the attempts are used up.
		j := w.submit(nimbus.Spec{})
		for i := range nimbus.DefaultMaxAttempts {
			w.accept(host)
			w.pass(nimbus.LeaseDuration + time.Second)
			if i < nimbus.DefaultMaxAttempts-1 {
				w.expect(j.ID, nimbus.StateQueued)
			}
		}
		w.expect(j.ID, nimbus.StateFinished, nimbus.ResultFailure, nimbus.ReasonAttemptsUsed)

		// While it runs: lost, and nothing of the host is taken any more.
		j = w.submit(nimbus.Spec{})
		l := w.start(host).Lease
		w.skip(2 * nimbus.LeaseDuration / 3)
		st, err := w.Heartbeat(ctx, host, []nimbus.Lease{l})
		w.must(err)
		if st[0].Verdict != nimbus.VerdictKeep {
			t.Fatalf("verdict in time: %s", st[0].Verdict)
		}
		w.pass(2 * nimbus.LeaseDuration / 3)
		w.expect(j.ID, nimbus.StateRunning)
		w.skip(nimbus.LeaseDuration/3 + time.Second)
		if st, err = w.Heartbeat(ctx, host, []nimbus.Lease{l}); err != nil || st[0].Verdict != nimbus.VerdictFenced {
			t.Fatalf("an expired lease is renewed before the sweep: %v %v", st, err)
		}
		w.sweep()
		w.expect(j.ID, nimbus.StateFinished, nimbus.ResultLost, nimbus.ReasonLeaseExpired)
		w.want(nimbus.CodeFenced, w.Finish(ctx, host, l, exited(0)))
		w.must(w.ReportPhase(ctx, host, l, nimbus.PhaseDestroyed, nimbus.Start{}))

		// Repeatable: again.
		j = w.submit(nimbus.Spec{Repeatable: true})
		old := w.start(host).Lease
		w.pass(nimbus.LeaseDuration + time.Second)
		w.expect(j.ID, nimbus.StateQueued)
		l = w.start(host).Lease
		w.want(nimbus.CodeFenced, w.Finish(ctx, host, old, exited(1)))
		w.must(w.Finish(ctx, host, l, exited(0)))
		if got := w.expect(j.ID, nimbus.StateFinished, nimbus.ResultSuccess).AttemptCount; got != 2 {
			t.Errorf("%d attempts, want 2", got)
		}
	})
}

// A host whose accept was answered late by a repeat counts from that repeat.
func TestRepeatedAcceptRenewsTheLease(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		host := w.host()
		j := w.submit(nimbus.Spec{})
		l := w.accept(host).Lease
		w.skip(20 * time.Second)
		_, err := w.Accept(t.Context(), host, l)
		w.must(err)
		w.pass(nimbus.ShimDeadline)
		w.expect(j.ID, nimbus.StateAccepted)
		w.pass(nimbus.LeaseDuration - nimbus.ShimDeadline)
		w.expect(j.ID, nimbus.StateQueued)
		_, err = w.Accept(t.Context(), host, l)
		w.want(nimbus.CodeFenced, err)
	})
}

// TestHostTellsOfItsExpiredLease is about a host and a control plane that were
// down together: the host comes back first and says what its shim did, before
// any sweep has looked.
func TestHostTellsOfItsExpiredLease(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		host := w.host()
		expired := nimbus.Outcome{Result: nimbus.ResultFailure, Reason: nimbus.Reason{Code: nimbus.ReasonLeaseExpired, Message: "not renewed"}}
		j := w.submit(nimbus.Spec{})
		w.must(w.Finish(t.Context(), host, w.start(host).Lease, expired))
		w.expect(j.ID, nimbus.StateFinished, nimbus.ResultLost, nimbus.ReasonLeaseExpired)

		j = w.submit(nimbus.Spec{Repeatable: true})
		w.must(w.Finish(t.Context(), host, w.start(host).Lease, expired))
		w.expect(j.ID, nimbus.StateQueued)
	})
}

func TestFinishBeforeStart(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		host := w.host()
		end := func(reason nimbus.ReasonCode) nimbus.Job {
			j := w.submit(nimbus.Spec{})
			w.must(w.Finish(t.Context(), host, w.accept(host).Lease, nimbus.Outcome{Result: nimbus.ResultFailure,
				Reason: nimbus.Reason{Code: reason, Message: "because"}, BeforeStart: true}))
			return w.job(j.ID)
		}
		if j := end(nimbus.ReasonImageNotFound); j.Result != nimbus.ResultFailure || j.Reason.Code != nimbus.ReasonImageNotFound {
			t.Errorf("unknown image: %+v", j)
		}
		if j := end(nimbus.ReasonSandboxFailed); j.State != nimbus.StateQueued || j.AttemptCount != 1 {
			t.Errorf("broken sandbox: %+v", j)
		}
		// The report of the start was lost, the end is still the truth.
		l := w.accept(host).Lease
		w.must(w.Finish(t.Context(), host, l, exited(0)))
		page, err := w.Jobs(t.Context(), nimbus.DefaultOrgID, scheduler.JobFilter{PageSize: 1})
		w.must(err)
		if j := page.Jobs[0]; j.Result != nimbus.ResultSuccess || j.Timeline.RunningAt.IsZero() {
			t.Errorf("job whose start was not reported: %+v", j)
		}
	})
}

func TestCancel(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		ctx := t.Context()
		j := w.submit(nimbus.Spec{}) // no host: pending
		got, err := w.Cancel(ctx, admin, nimbus.DefaultOrgID, j.ID)
		w.must(err)
		if got.State != nimbus.StateFinished || got.Reason.Code != nimbus.ReasonCancelledByUser {
			t.Errorf("cancelled while pending: %+v", got)
		}
		host := w.host()
		w.submit(nimbus.Spec{})
		o := w.offer(host)
		_, err = w.Cancel(ctx, admin, nimbus.DefaultOrgID, o.JobID)
		w.must(err)
		_, err = w.Accept(ctx, host, o.Lease)
		w.want(nimbus.CodeFenced, err)

		j = w.submit(nimbus.Spec{})
		l := w.start(host).Lease
		_, err = w.Cancel(ctx, admin, nimbus.DefaultOrgID, j.ID)
		w.must(err)
		w.expect(j.ID, nimbus.StateRunning)
		if r := w.poll(host); len(r.Cancel) != 1 || r.Cancel[0] != l.AttemptID {
			t.Errorf("poll of the host: %+v", r)
		}
		st, err := w.Heartbeat(ctx, host, []nimbus.Lease{l})
		w.must(err)
		if st[0].Verdict != nimbus.VerdictCancel || st[0].Reason == "" {
			t.Errorf("heartbeat: %+v", st[0])
		}
		w.must(w.Finish(ctx, host, l, nimbus.Outcome{Result: nimbus.ResultCancelled}))
		w.expect(j.ID, nimbus.StateFinished, nimbus.ResultCancelled, nimbus.ReasonCancelledByUser)

		// A host that does not answer is not waited for.
		j = w.submit(nimbus.Spec{})
		l = w.start(host).Lease
		_, err = w.Cancel(ctx, admin, nimbus.DefaultOrgID, j.ID)
		w.must(err)
		for range 4 {
			w.pass(20 * time.Second)
			_, err = w.Heartbeat(ctx, host, []nimbus.Lease{l})
			w.must(err)
		}
		w.expect(j.ID, nimbus.StateFinished, nimbus.ResultCancelled)
		w.want(nimbus.CodeFenced, w.Finish(ctx, host, l, exited(0)))
	})
}

func TestTimeouts(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		j := w.submit(nimbus.Spec{})
		w.pass(24*time.Hour + time.Second)
		w.expect(j.ID, nimbus.StateFinished, nimbus.ResultTimedOut, nimbus.ReasonQueueTimeout)

		host := w.host()
		j = w.submit(nimbus.Spec{Timeout: time.Minute})
		l := w.start(host).Lease
		for range 6 {
			w.pass(20 * time.Second)
			_, err := w.Heartbeat(t.Context(), host, []nimbus.Lease{l})
			w.must(err)
		}
		w.pass(time.Second)
		if r := w.poll(host); len(r.Cancel) != 1 {
			t.Fatalf("a job past its timeout is not cancelled: %+v", w.job(j.ID))
		}
		w.must(w.Finish(t.Context(), host, l, nimbus.Outcome{Result: nimbus.ResultCancelled}))
		w.expect(j.ID, nimbus.StateFinished, nimbus.ResultTimedOut, nimbus.ReasonTimeout)
	})
}
