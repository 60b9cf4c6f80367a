package scheduler

import (
	"context"
	"fmt"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// elsewhereRecheck is how often GitHub is asked about a job that somebody
// else's runner has, in case the event of its end got lost.
const elsewhereRecheck = 5 * time.Minute

// apply brings the books in step with a job that GitHub says is in progress or
// completed. It is safe to repeat.
func (u *unit) apply(ctx context.Context, d nimbus.Delivery, ev *nimbus.ForgeEvent, p parties) error {
	if p.job == nil && p.attempt != nil && (p.attempt.State == AttemptLive || p.attempt.unproven()) {
		// The event that asked for a runner never came, but a runner of ours
		// has the job.
		var err error
		if p.job, err = u.unannounced(ctx, d, ev); err != nil {
			return err
		}
	}
	if p.job == nil || p.job.State == nimbus.StateFinished {
		return nil
	}
	bound := p.job.State == nimbus.StateRunning
	if !bound {
		var err error
		if bound, err = u.bind(ctx, ev, p); err != nil {
			return err
		}
	}
	switch {
	case ev.Status == nimbus.ForgeCompleted:
		return u.completed(ctx, ev, p.job, bound)
	case ev.Status != nimbus.ForgeInProgress:
		return nil
	case bound:
		return u.inProgress(ctx, p.job, d.ID == "")
	}
	return u.elsewhere(ctx, ev, p.job)
}

// unannounced admits a job that is known only because a runner of ours has it.
func (u *unit) unannounced(ctx context.Context, d nimbus.Delivery, ev *nimbus.ForgeEvent) (*JobRecord, error) {
	j, refused, err := u.newGitHub(ctx, d, ev)
	if err != nil {
		return nil, err
	}
	if err := u.admit(ctx, j, refused, actorGitHub); err != nil {
		return nil, err
	}
	return u.LockJob(ctx, j.ID) // it may have been queued meanwhile
}

// bind proves that an attempt runs a job: GitHub says that the attempt's runner
// has it. The runner may have been made for another job, since GitHub gives a
// job to any runner with its labels; then the books follow what really runs.
func (u *unit) bind(ctx context.Context, ev *nimbus.ForgeEvent, p parties) (bool, error) {
	j, a := p.job, p.attempt
	switch {
	case a == nil:
		return false, nil
	case a.State == AttemptEnded && (a.JobID != j.ID || j.AttemptID != a.AttemptID || j.State != nimbus.StateAccepted):
		return u.bindLate(ctx, ev, p)
	case a.JobID == j.ID:
		if j.AttemptID != a.AttemptID || j.State != nimbus.StateAccepted {
			return false, nil // a runner of the past, and the job was given on
		}
	case a.State != AttemptLive || p.holder.State == nimbus.StateRunning && p.holder.AttemptID == a.AttemptID:
		return false, nil
	case !a.mayRun(p.holder, j):
		// Tokens, scopes and caches of the sandbox are another tenant's.
		return false, u.stopAttempt(ctx, a, u.now)
	default:
		if err := u.swap(ctx, p); err != nil {
			return false, err
		}
	}
	a.Runner.ID = ev.RunnerID
	a.RemoveRunnerAt = time.Time{}
	return true, u.running(ctx, j, a, actorGitHub)
}

// swap gives the attempt to the job that it really runs, and that job's own
// attempt, if any, to the one that it was made for, where that fits. A job left
// without an attempt is demand as before.
func (u *unit) swap(ctx context.Context, p parties) error {
	j, a, holder := p.job, p.attempt, p.holder
	own, err := u.current(ctx, j)
	if err != nil {
		return err
	}
	if err := u.endOffer(ctx, own); err != nil {
		return err
	}
	spare := own != nil && own.State == AttemptLive && j.State == nimbus.StateAccepted
	waits := holder.State == nimbus.StateAccepted && holder.AttemptID == a.AttemptID
	if err := u.advance(ctx, j, a); err != nil {
		return err
	}
	if spare && (!waits || !own.fits(j, holder)) {
		spare = false
		if err := u.release(ctx, own, u.now); err != nil {
			return err
		}
	}
	if !waits { // it was cancelled while its runner took another job, or ran in another attempt
		return nil
	}
	detail := fmt.Sprintf("its runner took job %s", j.ID)
	if !spare && holder.Stop.Result != "" {
		return u.finish(ctx, holder, holder.Stop, actorGitHub)
	}
	if !spare {
		holder.AttemptCount--
		holder.AttemptID = ""
		holder.CheckAt = time.Time{}
		return u.move(ctx, holder, Move{To: nimbus.StateQueued, Actor: actorGitHub, Detail: detail})
	}
	own.JobID = holder.ID
	holder.AttemptID = own.AttemptID
	if err := u.SaveAttempt(ctx, own); err != nil {
		return err
	}
	if err := u.SaveJob(ctx, holder); err != nil {
		return err
	}
	return u.note(ctx, holder, "swapped", own.AttemptID, actorGitHub, detail)
}

// advance brings a job that waits, or is accepted, to accepted with attempt a,
// along the table of states.
func (u *unit) advance(ctx context.Context, j *JobRecord, a *Attempt) error {
	if j.State != nimbus.StateAccepted {
		j.AttemptCount++
	}
	path := []nimbus.State{nimbus.StateUnschedulable, nimbus.StatePending, nimbus.StateQueued, nimbus.StateOffered, nimbus.StateAccepted}
	at := 0
	for path[at] != j.State {
		at++
	}
	a.JobID, j.AttemptID = j.ID, a.AttemptID
	for _, next := range path[at+1:] {
		if err := u.move(ctx, j, Move{To: next, Actor: actorGitHub, Detail: "GitHub gave it to a runner of ours"}); err != nil {
			return err
		}
	}
	return nil
}

// inProgress looks after a job that runs, and whose attempt may be over. fresh
// says that GitHub was asked; an event may be old.
func (u *unit) inProgress(ctx context.Context, j *JobRecord, fresh bool) error {
	a, err := u.current(ctx, j)
	if err != nil || a == nil || a.State == AttemptLive {
		return err
	}
	if a.Outcome == nil && fresh { // its host went silent, and GitHub gives the job to nobody else
		return u.finish(ctx, j, Ending{nimbus.ResultLost, leaseExpired(a)}, actorSystem)
	}
	return u.awaitReport(ctx, j)
}

// elsewhere is for a job that somebody else's runner has. It waits for its end
// where no host will be offered it; a sandbox that is up stays, since its
// runner may still get another job.
func (u *unit) elsewhere(ctx context.Context, ev *nimbus.ForgeEvent, j *JobRecord) error {
	reason := nimbus.Reason{Code: nimbus.ReasonRanElsewhere, Message: fmt.Sprintf("another runner, %q, has it", clip(ev.RunnerName))}
	j.CheckAt = u.now.Add(elsewhereRecheck)
	switch j.State {
	case nimbus.StateAccepted:
		if err := u.SaveJob(ctx, j); err != nil {
			return err
		}
		return u.note(ctx, j, "elsewhere", j.AttemptID, actorGitHub, reason.Message)
	case nimbus.StateUnschedulable:
		j.Reason = reason
		u.changed(j)
		return u.SaveJob(ctx, j)
	case nimbus.StateOffered:
		if err := u.dropOffer(ctx, j); err != nil {
			return err
		}
		if err := u.move(ctx, j, Move{To: nimbus.StateQueued, Actor: actorGitHub, Detail: reason.Message}); err != nil {
			return err
		}
	}
	return u.move(ctx, j, Move{To: nimbus.StateUnschedulable, Reason: reason, Actor: actorGitHub})
}

// dropOffer makes the offer of a job void for good.
func (u *unit) dropOffer(ctx context.Context, j *JobRecord) error {
	a, err := u.current(ctx, j)
	if err != nil {
		return err
	}
	return u.endOffer(ctx, a)
}

// completed ends a job as GitHub says. A sandbox that is still up has a grace
// to end by itself, but none when the job was cancelled or ran elsewhere.
func (u *unit) completed(ctx context.Context, ev *nimbus.ForgeEvent, j *JobRecord, bound bool) error {
	e := ending(ev)
	stop, stopAt := u.stopAttempt, u.now
	switch {
	case !bound:
		e, stop = endedUnbound(ev), u.release
	case j.Stop.Result != "" && e.Result != nimbus.ResultSuccess:
		e = j.Stop
	case e.Result != nimbus.ResultCancelled:
		stopAt = u.now.Add(u.cfg.CompletedGrace)
	}
	a, err := u.current(ctx, j)
	if err != nil {
		return err
	}
	if err := u.endOffer(ctx, a); err != nil {
		return err
	}
	if err := u.finish(ctx, j, e, actorGitHub); err != nil {
		return err
	}
	if a != nil {
		if err := stop(ctx, a, stopAt); err != nil {
			return err
		}
	}
	u.promoteLater(j.Class)
	return nil
}

// ending is GitHub's conclusion in our words.
func ending(ev *nimbus.ForgeEvent) Ending {
	switch ev.Conclusion {
	case "success", "neutral":
		return Ending{Result: nimbus.ResultSuccess}
	case "cancelled", "skipped":
		return Ending{nimbus.ResultCancelled, nimbus.Reason{Code: nimbus.ReasonCancelledByForge, Message: "GitHub says: " + ev.Conclusion}}
	case "timed_out":
		return Ending{nimbus.ResultTimedOut, nimbus.Reason{Code: nimbus.ReasonTimeout, Message: "GitHub says: timed out"}}
	case "failure":
		return Ending{Result: nimbus.ResultFailure}
	}
	return Ending{nimbus.ResultFailure, nimbus.Reason{Code: nimbus.ReasonForge, Message: "GitHub says: " + clip(ev.Conclusion)}}
}

// endedUnbound is for a job that GitHub says is over and that never ran here.
func endedUnbound(ev *nimbus.ForgeEvent) Ending {
	e := ending(ev)
	switch {
	case e.Result == nimbus.ResultCancelled:
		return e
	case ev.RunnerName == "":
		return Ending{nimbus.ResultCancelled, nimbus.Reason{Code: nimbus.ReasonForge,
			Message: fmt.Sprintf("GitHub ended it as %s before a runner had it", clip(ev.Conclusion))}}
	}
	return Ending{nimbus.ResultCancelled, nimbus.Reason{Code: nimbus.ReasonRanElsewhere,
		Message: fmt.Sprintf("it ran on another runner, %q, and ended there as %s", clip(ev.RunnerName), clip(ev.Conclusion))}}
}
