package scheduler_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

// runner takes a GitHub job up to a registered runner whose process runs.
func (w *world) runner(host string) nimbus.Assignment {
	w.t.Helper()
	a := w.accept(host)
	r, jit, err := w.CreateRunner(w.t.Context(), host, a.Lease)
	w.must(err)
	if r.Name != nimbus.RunnerName(a.AttemptID) || r.ID == 0 || jit == "" {
		w.t.Fatalf("runner %+v with configuration %q", r, jit)
	}
	w.must(w.ReportPhase(w.t.Context(), host, a.Lease, nimbus.PhaseStarted, nimbus.Start{}))
	return a
}

func TestGitHubJobEndToEnd(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		host := w.host()
		if o := w.deliver(w.event(1, nimbus.ForgeQueued)); o != nimbus.DeliveryAccepted {
			t.Fatalf("queued is %s", o)
		}
		a := w.runner(host)
		j := w.expect(a.JobID, nimbus.StateAccepted)
		if j.Repo != "Octo/hello" || a.Source != nimbus.SourceGitHub {
			t.Errorf("job %+v", j)
		}
		if got := w.works(a.JobToken); got != "" {
			t.Errorf("the token is %s before GitHub bound the runner", got)
		}
		w.deliver(w.event(1, nimbus.ForgeInProgress, by(a.AttemptID)))
		w.expect(j.ID, nimbus.StateRunning)
		if got := w.works(a.JobToken); got != a.AttemptID {
			t.Errorf("the token is %s after in_progress", got)
		}
		w.must(w.Finish(t.Context(), host, a.Lease, exited(0))) // the runner's code says nothing about the job
		w.expect(j.ID, nimbus.StateRunning)
		w.deliver(w.event(1, nimbus.ForgeCompleted, by(a.AttemptID), concluded("failure")))
		w.expect(j.ID, nimbus.StateFinished, nimbus.ResultFailure)
		w.pass(time.Hour)
		if w.github.asked != 0 {
			t.Errorf("GitHub was asked %d times about a job that it told everything of", w.github.asked)
		}
	})
}

func TestReplayedAndReorderedEvents(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		ctx := t.Context()
		ev := w.event(1, nimbus.ForgeQueued)
		d := nimbus.Delivery{ID: "same"}
		for i, want := range []nimbus.DeliveryOutcome{nimbus.DeliveryAccepted, nimbus.DeliveryDuplicate, nimbus.DeliveryDuplicate} {
			if got, err := w.ProcessDelivery(ctx, d, ev); err != nil || got != want {
				t.Errorf("delivery %d is %s (%v), want %s", i, got, err, want)
			}
		}
		w.deliver(ev) // as another delivery
		if page, _ := w.Jobs(ctx, nimbus.DefaultOrgID, scheduler.JobFilter{}); len(page.Jobs) != 1 {
			t.Errorf("one job of GitHub's became %d", len(page.Jobs))
		}
		// completed before queued leaves a tombstone.
		done := w.event(2, nimbus.ForgeCompleted, concluded("cancelled"))
		w.deliver(done)
		if got := w.deliver(w.event(2, nimbus.ForgeQueued)); got != nimbus.DeliveryAccepted {
			t.Errorf("late queued is %s", got)
		}
		if page, _ := w.Jobs(ctx, nimbus.DefaultOrgID, scheduler.JobFilter{}); len(page.Jobs) != 1 {
			t.Error("a completed job was started")
		}
		// Not ours, or nothing.
		if got := w.deliver(w.event(3, nimbus.ForgeQueued, labelled("ubuntu-latest"))); got != nimbus.DeliveryIgnored {
			t.Errorf("somebody else's job is %s", got)
		}
		if got := w.deliver(nil); got != nimbus.DeliveryIgnored {
			t.Errorf("an event without meaning is %s", got)
		}
		// A gate: waiting first, and no demand before queued says so.
		w.deliver(w.event(4, nimbus.ForgeWaiting))
		w.deliver(w.event(4, nimbus.ForgeQueued, func(ev *nimbus.ForgeEvent) { ev.Demand = false }))
		if page, _ := w.Jobs(ctx, nimbus.DefaultOrgID, scheduler.JobFilter{}); len(page.Jobs) != 1 {
			t.Error("a job at a gate was started")
		}
		w.deliver(w.event(4, nimbus.ForgeQueued))
		w.jobOf(4)
	})
}

func TestStaleEventIsCheckedBeforeItIsBelieved(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		host := w.host()
		old := func(ev *nimbus.ForgeEvent) { ev.CreatedAt = ev.CreatedAt.Add(-time.Hour) }
		w.deliver(w.event(1, nimbus.ForgeQueued, old))
		w.deliver(w.event(2, nimbus.ForgeQueued, old))
		w.event(2, nimbus.ForgeCompleted, byOther, concluded("success")) // what GitHub has now
		if r := w.poll(host); len(r.Offers) != 0 {
			t.Fatal("a stale event was believed unasked")
		}
		w.github.fail(nimbus.Errorf(nimbus.CodeUnavailable, "down"))
		w.sweep()
		w.expect(w.jobOf(1).ID, nimbus.StateUnschedulable, nimbus.ReasonForge)
		w.github.fail(nil)
		w.pass(20 * time.Second)
		w.expect(w.jobOf(1).ID, nimbus.StateQueued)
		w.expect(w.jobOf(2).ID, nimbus.StateUnschedulable) // one reading drops no demand
		w.pass(10 * time.Second)
		w.expect(w.jobOf(2).ID, nimbus.StateFinished, nimbus.ResultCancelled, nimbus.ReasonRanElsewhere)
	})
}

func TestRunnerTakesAnotherJob(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		host := w.host()
		ctx := t.Context()
		// Both have a runner, and GitHub gives them out crosswise.
		w.deliver(w.event(1, nimbus.ForgeQueued))
		w.deliver(w.event(2, nimbus.ForgeQueued))
		a, b := w.runner(host), w.runner(host)
		one, two := a.JobID, b.JobID
		w.deliver(w.event(2, nimbus.ForgeInProgress, by(a.AttemptID)))
		if j := w.expect(two, nimbus.StateRunning); j.AttemptID != a.AttemptID {
			t.Errorf("job 2 runs in %s, want %s", j.AttemptID, a.AttemptID)
		}
		if j := w.expect(one, nimbus.StateAccepted); j.AttemptID != b.AttemptID {
			t.Errorf("job 1 waits in %s, want %s", j.AttemptID, b.AttemptID)
		}
		if w.works(a.JobToken) != a.AttemptID || w.works(b.JobToken) != "" {
			t.Errorf("tokens are of %q and %q", w.works(a.JobToken), w.works(b.JobToken))
		}
		w.deliver(w.event(1, nimbus.ForgeInProgress, by(b.AttemptID)))
		w.must(w.Finish(ctx, host, a.Lease, exited(0)))
		w.must(w.Finish(ctx, host, b.Lease, exited(0)))
		w.deliver(w.event(1, nimbus.ForgeCompleted, by(b.AttemptID), concluded("success")))
		w.deliver(w.event(2, nimbus.ForgeCompleted, by(a.AttemptID), concluded("failure")))
		w.expect(one, nimbus.StateFinished, nimbus.ResultSuccess)
		w.expect(two, nimbus.StateFinished, nimbus.ResultFailure)

		// The other job has no runner yet: the first is demand again.
		w.deliver(w.event(3, nimbus.ForgeQueued))
		c := w.runner(host)
		w.deliver(w.event(4, nimbus.ForgeQueued))
		w.deliver(w.event(4, nimbus.ForgeInProgress, by(c.AttemptID)))
		w.expect(w.jobOf(4).ID, nimbus.StateRunning)
		if j := w.expect(c.JobID, nimbus.StateQueued); j.AttemptCount != 0 {
			t.Errorf("%d attempts are counted against a job whose runner was taken", j.AttemptCount)
		}
		// The other job was never announced.
		d := w.runner(host)
		if d.JobID != c.JobID {
			t.Fatalf("job 3 is not offered again, but %s", d.JobID)
		}
		w.deliver(w.event(5, nimbus.ForgeInProgress, by(d.AttemptID)))
		w.expect(w.jobOf(5).ID, nimbus.StateRunning)
		// A job of another repo must not be run with this one's tokens.
		e := w.runner(host)
		w.deliver(w.event(6, nimbus.ForgeQueued, func(ev *nimbus.ForgeEvent) { ev.Job.Repo = "secret" }))
		w.deliver(w.event(6, nimbus.ForgeInProgress, by(e.AttemptID), func(ev *nimbus.ForgeEvent) { ev.Job.Repo = "secret" }))
		if r := w.poll(host); !slices.Contains(r.Cancel, e.AttemptID) {
			t.Error("a sandbox with another repo's job goes on")
		}
		if got := w.works(e.JobToken); got != "" {
			t.Errorf("its token is %s", got)
		}
	})
}

func TestJobOnSomebodyElsesRunner(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		host := w.host()
		for id := range int64(3) {
			w.deliver(w.event(id+1, nimbus.ForgeQueued))
		}
		accepted := w.runner(host)
		offered := w.offer(host)
		waiting := w.jobOf(3).ID
		for id := range int64(3) {
			w.deliver(w.event(id+1, nimbus.ForgeInProgress, byOther))
		}
		w.expect(accepted.JobID, nimbus.StateAccepted) // its runner may get another job
		w.expect(offered.JobID, nimbus.StateUnschedulable, nimbus.ReasonRanElsewhere)
		w.expect(waiting, nimbus.StateUnschedulable, nimbus.ReasonRanElsewhere)
		_, err := w.Accept(t.Context(), host, offered.Lease)
		w.want(nimbus.CodeFenced, err)
		for id := range int64(3) {
			w.deliver(w.event(id+1, nimbus.ForgeCompleted, byOther, concluded("success")))
		}
		for _, id := range []string{accepted.JobID, offered.JobID, waiting} {
			w.expect(id, nimbus.StateFinished, nimbus.ResultCancelled, nimbus.ReasonRanElsewhere)
		}
		if r := w.poll(host); len(r.Cancel) != 0 {
			t.Errorf("cancelled before GitHub said that its runner is idle: %+v", r)
		}
		w.sweep()
		if r := w.poll(host); len(r.Cancel) != 1 || r.Cancel[0] != accepted.AttemptID {
			t.Errorf("poll: %+v", r)
		}
		w.must(w.Finish(t.Context(), host, accepted.Lease, nimbus.Outcome{Result: nimbus.ResultCancelled}))
		w.pass(time.Second)
		if names := w.github.runnerNames(); len(names) != 0 {
			t.Errorf("runners are left at GitHub: %v", names)
		}
	})
}

func TestGitHubJobWhoseHostGoesSilent(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		host := w.host()
		expired := nimbus.LeaseDuration + time.Second

		// Before in_progress: GitHub is asked, then a new runner.
		w.deliver(w.event(1, nimbus.ForgeQueued))
		first := w.runner(host)
		w.github.fail(nimbus.Errorf(nimbus.CodeUnavailable, "down"))
		w.pass(expired)
		w.expect(first.JobID, nimbus.StateAccepted) // not before GitHub was read
		w.github.fail(nil)
		w.pass(20 * time.Second)
		w.expect(first.JobID, nimbus.StateQueued)
		second := w.runner(host)
		if second.JobID != first.JobID || second.AttemptID == first.AttemptID {
			t.Fatalf("second attempt: %+v", second)
		}
		w.pass(2 * time.Minute)
		if names := w.github.runnerNames(); slices.Contains(names, nimbus.RunnerName(first.AttemptID)) {
			t.Errorf("the dead runner is left at GitHub: %v", names)
		}

		// in_progress got lost: GitHub has it on the dead runner, and gives it
		// to nobody else.
		w.deliver(w.event(2, nimbus.ForgeQueued))
		lost := w.jobOf(2).ID
		var a nimbus.Assignment
		for a.JobID != lost { // job 1 is offered again too
			a = w.runner(host)
		}
		w.event(2, nimbus.ForgeInProgress, by(a.AttemptID))
		w.pass(expired)
		w.expect(lost, nimbus.StateFinished, nimbus.ResultLost, nimbus.ReasonLeaseExpired)

		// After in_progress: lost, once GitHub knows no better.
		w.deliver(w.event(3, nimbus.ForgeQueued))
		for a = w.runner(host); a.JobID != w.jobOf(3).ID; a = w.runner(host) {
		}
		w.deliver(w.event(3, nimbus.ForgeInProgress, by(a.AttemptID)))
		w.pass(expired)
		w.expect(a.JobID, nimbus.StateRunning)
		w.pass(10 * time.Second)
		w.expect(a.JobID, nimbus.StateFinished, nimbus.ResultLost, nimbus.ReasonLeaseExpired)

		// It ended well just before, and its event got lost.
		w.deliver(w.event(4, nimbus.ForgeQueued))
		for a = w.runner(host); a.JobID != w.jobOf(4).ID; a = w.runner(host) {
		}
		w.deliver(w.event(4, nimbus.ForgeInProgress, by(a.AttemptID)))
		w.event(4, nimbus.ForgeCompleted, by(a.AttemptID), concluded("success"))
		w.github.fail(nimbus.Errorf(nimbus.CodeUnavailable, "away"))
		w.pass(expired)
		for range 20 { // for as long as GitHub can't be asked, nobody knows
			w.pass(20 * time.Second)
		}
		w.github.fail(&nimbus.Error{Code: nimbus.CodeUnavailable, Message: "rate limit exceeded", RetryAfter: 40 * time.Minute})
		for range 4 {
			w.pass(10 * time.Minute)
		}
		w.expect(a.JobID, nimbus.StateRunning)
		w.github.fail(nil)
		w.pass(40 * time.Minute)
		w.expect(a.JobID, nimbus.StateFinished, nimbus.ResultSuccess)
	})
}

func TestLostEvents(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		host := w.host()
		ctx := t.Context()
		// Both in_progress and completed got lost; the runner has ended.
		w.deliver(w.event(1, nimbus.ForgeQueued))
		a := w.runner(host)
		w.event(1, nimbus.ForgeCompleted, by(a.AttemptID), concluded("success"))
		w.must(w.Finish(ctx, host, a.Lease, exited(0)))
		w.pass(time.Second)
		w.expect(a.JobID, nimbus.StateFinished, nimbus.ResultSuccess)

		// in_progress got lost while it runs: found out after a while.
		w.deliver(w.event(2, nimbus.ForgeQueued))
		a = w.runner(host)
		w.event(2, nimbus.ForgeInProgress, by(a.AttemptID))
		for range 4 {
			w.pass(20 * time.Second)
			_, err := w.Heartbeat(ctx, host, []nimbus.Lease{a.Lease})
			w.must(err)
		}
		w.expect(a.JobID, nimbus.StateRunning)

		// completed never comes, and GitHub does not know either.
		w.must(w.Finish(ctx, host, a.Lease, exited(0)))
		for range 10 {
			w.pass(20 * time.Second)
		}
		w.expect(a.JobID, nimbus.StateRunning)
		for range 6 {
			w.pass(20 * time.Second)
		}
		w.expect(a.JobID, nimbus.StateFinished, nimbus.ResultLost, nimbus.ReasonUnreported)

		// The runner ended without having had the job.
		w.deliver(w.event(3, nimbus.ForgeQueued))
		a = w.runner(host)
		w.must(w.Finish(ctx, host, a.Lease, exited(1)))
		w.pass(time.Second)
		w.expect(a.JobID, nimbus.StateQueued)

		// GitHub has forgotten the job.
		w.github.mu.Lock()
		delete(w.github.jobs, 3)
		w.github.mu.Unlock()
		a = w.runner(host)
		w.must(w.Finish(ctx, host, a.Lease, exited(1)))
		for range 4 {
			w.pass(10 * time.Second)
		}
		w.expect(a.JobID, nimbus.StateFinished, nimbus.ResultCancelled, nimbus.ReasonForge)
	})
}

func TestCompletedWhileTheSandboxRuns(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		host := w.host()
		w.deliver(w.event(1, nimbus.ForgeQueued))
		a := w.runner(host)
		w.deliver(w.event(1, nimbus.ForgeInProgress, by(a.AttemptID)))
		w.deliver(w.event(1, nimbus.ForgeCompleted, by(a.AttemptID), concluded("success")))
		if r := w.poll(host); len(r.Cancel) != 0 {
			t.Error("the sandbox gets no grace to end by itself")
		}
		w.pass(16 * time.Second)
		if r := w.poll(host); len(r.Cancel) != 1 {
			t.Error("the sandbox is not cancelled after its grace")
		}
		w.must(w.Finish(t.Context(), host, a.Lease, nimbus.Outcome{Result: nimbus.ResultCancelled}))
		w.expect(a.JobID, nimbus.StateFinished, nimbus.ResultSuccess)

		w.deliver(w.event(2, nimbus.ForgeQueued))
		a = w.runner(host)
		w.deliver(w.event(2, nimbus.ForgeInProgress, by(a.AttemptID)))
		w.deliver(w.event(2, nimbus.ForgeCompleted, by(a.AttemptID), concluded("cancelled")))
		if r := w.poll(host); len(r.Cancel) != 1 {
			t.Error("the sandbox of a cancelled job goes on")
		}
	})
}

func TestCreateRunner(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		host := w.host()
		ctx := t.Context()
		w.deliver(w.event(1, nimbus.ForgeQueued))
		a := w.runner(host)
		if _, jit, err := w.CreateRunner(ctx, host, a.Lease); err != nil || jit == "" { // the answer got lost
			t.Errorf("repeated: %q %v", jit, err)
		}
		if names := w.github.runnerNames(); len(names) != 1 {
			t.Errorf("runners: %v", names)
		}
		// A runner of the name that GitHub has unknown to us is replaced.
		w.deliver(w.event(2, nimbus.ForgeQueued))
		b := w.accept(host)
		w.github.add(nimbus.RunnerName(b.AttemptID), 99)
		r, _, err := w.CreateRunner(ctx, host, b.Lease)
		if err != nil || r.ID == 99 {
			t.Errorf("with a runner from before: %+v, %v", r, err)
		}
		w.must(w.Finish(ctx, host, b.Lease, exited(0)))
		w.pass(0)
		// One that has a job ends the attempt: the next has another name.
		b = w.accept(host)
		w.github.add(nimbus.RunnerName(b.AttemptID), 99)
		w.github.busy[99] = true
		_, _, err = w.CreateRunner(ctx, host, b.Lease)
		w.want(nimbus.CodeConflict, err)
		w.expect(b.JobID, nimbus.StateQueued)
		w.want(nimbus.CodeFenced, w.Finish(ctx, host, b.Lease, exited(0)))
		// GitHub's refusal is the caller's to see; nothing is lost by it.
		c := w.accept(host)
		w.github.fail(nimbus.Errorf(nimbus.CodeForbidden, "disabled for this repository"))
		_, _, err = w.CreateRunner(ctx, host, c.Lease)
		w.want(nimbus.CodeForbidden, err)
		w.github.fail(nil)
		_, _, err = w.CreateRunner(ctx, host, c.Lease)
		w.must(err)
		// Native jobs have none.
		w.submit(nimbus.Spec{})
		_, _, err = w.CreateRunner(ctx, host, w.accept(host).Lease)
		w.want(nimbus.CodeInvalid, err)
	})
}

func TestLabelsThatCanNotBeServed(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		w.deliver(w.event(1, nimbus.ForgeQueued))
		j := w.expect(w.jobOf(1).ID, nimbus.StatePending, nimbus.ReasonNoHost)
		if !strings.Contains(j.Reason.Message, "no host has joined") {
			t.Errorf("reason: %s", j.Reason.Message)
		}
		host := w.host(nimbus.ExecutorLocal)
		j = w.expect(j.ID, nimbus.StateUnschedulable, nimbus.ReasonNoHost)
		for _, part := range []string{"microvm", "host", "not installed", "install it"} {
			if !strings.Contains(j.Reason.Message, part) {
				t.Errorf("reason %q lacks %q", j.Reason.Message, part)
			}
		}
		w.deliver(w.event(2, nimbus.ForgeQueued, labelled("nimbus", "local")))
		w.expect(w.jobOf(2).ID, nimbus.StateUnschedulable, nimbus.ReasonUntrusted)
		w.deliver(w.event(3, nimbus.ForgeQueued, labelled("nimbus", "windows")))
		w.expect(w.jobOf(3).ID, nimbus.StateUnschedulable, nimbus.ReasonUnknownLabel)
		// The host learns microVMs.
		_, err := w.Hello(t.Context(), host, "v2", inventory(nimbus.ExecutorMicroVM), nil)
		w.must(err)
		w.expect(j.ID, nimbus.StateQueued)
		w.expect(w.jobOf(2).ID, nimbus.StateUnschedulable, nimbus.ReasonUntrusted)
		w.expect(w.jobOf(3).ID, nimbus.StateUnschedulable, nimbus.ReasonUnknownLabel)
		// Another one has GPUs, but not all that a job wants, and then it has.
		w.deliver(w.event(4, nimbus.ForgeQueued, labelled("nimbus", "gpu-count:2", "pytorch", "param:Seed=7")))
		gpus := w.expect(w.jobOf(4).ID, nimbus.StateUnschedulable, nimbus.ReasonNoHost)
		inv := inventory(nimbus.ExecutorMicroVM)
		inv.Executors = append(inv.Executors, nimbus.ExecutorStatus{Name: nimbus.ExecutorGPU, Available: true})
		for _, step := range []struct {
			change func()
			says   string
		}{
			{func() {}, "has no pytorch"},
			{func() { inv.Capabilities = []string{"pytorch"} }, "has no GPU"},
			{func() { inv.GPUs = []nimbus.GPUGroup{{Profile: "a100", Count: 1}, {Profile: "h100", Count: 1}} }, "has 1 GPUs alike"},
			{func() { inv.GPUs[1].Count = 2 }, ""},
		} {
			step.change()
			_, err = w.Hello(t.Context(), host, "v2", inv, nil)
			w.must(err)
			if gpus = w.job(gpus.ID); !strings.Contains(gpus.Reason.Message, step.says) {
				t.Errorf("reason %q lacks %q", gpus.Reason.Message, step.says)
			}
		}
		w.expect(gpus.ID, nimbus.StateQueued)
		// And unlearns them, while the job waits.
		_, err = w.Hello(t.Context(), host, "v2", inventory(), nil)
		w.must(err)
		w.expect(j.ID, nimbus.StateUnschedulable, nimbus.ReasonNoHost)
	})
}

func TestExecutorIsChosenByWhatHostsOffer(t *testing.T) {
	eachEngine(t, scheduler.Config{AllowTrustedLocal: true}, func(t *testing.T, w *world) {
		native := w.submit(nimbus.Spec{})
		if native.Class.Executor != nimbus.ExecutorMicroVM || native.State != nimbus.StatePending {
			t.Errorf("without hosts: %+v", native)
		}
		w.host(nimbus.ExecutorLocal)
		if j := w.expect(native.ID, nimbus.StateQueued); j.Class.Executor != nimbus.ExecutorLocal {
			t.Errorf("with a host that has local alone, the class is %s", j.Class)
		}
		w.deliver(w.event(1, nimbus.ForgeQueued)) // allowed here
		if j := w.jobOf(1); j.State != nimbus.StateQueued || j.Class.Executor != nimbus.ExecutorLocal {
			t.Errorf("webhook job with --allow-trusted-local: %+v", j)
		}
		w.host(nimbus.ExecutorMicroVM)
		if j := w.submit(nimbus.Spec{}); j.Class.Executor != nimbus.ExecutorMicroVM {
			t.Errorf("with both, the class is %s", j.Class)
		}
	})
}

// TestLocalIsForTheOperatorsOwnOrg: a job of another org that runs on the local
// executor has the host, and so it neither gets it by chance nor by asking.
func TestLocalIsForTheOperatorsOwnOrg(t *testing.T) {
	submit := func(w *world, org string, labels ...string) nimbus.Job {
		j, err := w.Submit(t.Context(), nimbus.Principal{Kind: nimbus.PrincipalAdmin, OrgID: org},
			scheduler.Submission{Spec: nimbus.Spec{Command: []string{"id"}}, Labels: labels})
		w.must(err)
		return j
	}
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		w.host(nimbus.ExecutorLocal)
		other := w.org("other")
		if j := submit(w, other); j.State != nimbus.StateUnschedulable || j.Reason.Code != nimbus.ReasonNoHost || j.Class.Executor != nimbus.ExecutorMicroVM {
			t.Errorf("a job of another org is %s of %s: %+v", j.State, j.Class, j.Reason)
		}
		if j := submit(w, other, "local"); j.State != nimbus.StateUnschedulable || j.Reason.Code != nimbus.ReasonUntrusted ||
			!strings.Contains(j.Reason.Message, "--allow-trusted-local") {
			t.Errorf("one that asks for local is %s: %+v", j.State, j.Reason)
		}
		if j := submit(w, nimbus.DefaultOrgID); j.State != nimbus.StateQueued || j.Class.Executor != nimbus.ExecutorLocal {
			t.Errorf("one of the operator's is %s of %s: %+v", j.State, j.Class, j.Reason)
		}
		w = w.replica(scheduler.Config{AllowTrustedLocal: true})
		if j := submit(w, other, "local"); j.State != nimbus.StateQueued {
			t.Errorf("with --allow-trusted-local it is %s: %+v", j.State, j.Reason)
		}
	})
}
