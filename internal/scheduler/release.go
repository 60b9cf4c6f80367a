package scheduler

import (
	"context"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// release stops an attempt that its job needs no more. A runner of which GitHub
// has not said what it runs may have been given another job meanwhile, of which
// no event came yet: it is deregistered first, which GitHub refuses for one that
// is busy (removeRunner).
func (u *unit) release(ctx context.Context, a *Attempt, at time.Time) error {
	if a.State != AttemptLive || !a.RunningAt.IsZero() || a.Runner.Name == "" {
		return u.stopAttempt(ctx, a, at)
	}
	if !a.RemoveRunnerAt.IsZero() {
		return nil // it is about to be
	}
	a.RemoveRunnerAt = u.now
	return u.SaveAttempt(ctx, a)
}

// letGo does what comes of GitHub's answer about a runner that was to be
// deregistered.
func (u *unit) letGo(ctx context.Context, j *JobRecord, a *Attempt, busy bool) error {
	a.RemoveRunnerAt = time.Time{}
	if a.State != AttemptLive {
		return u.SaveAttempt(ctx, a)
	}
	if !busy {
		if err := u.SaveAttempt(ctx, a); err != nil {
			return err
		}
		return u.stopAttempt(ctx, a, u.now)
	}
	// It goes on with the job that it has, whose events will tell.
	if err := u.SaveAttempt(ctx, a); err != nil {
		return err
	}
	if j.Stop.Result != "" && j.State == nimbus.StateAccepted && j.AttemptID == a.AttemptID {
		if err := u.finish(ctx, j, j.Stop, actorGitHub); err != nil {
			return err
		}
		u.promoteLater(j.Class)
	}
	return u.note(ctx, j, "runner_busy", a.AttemptID, actorGitHub, "its runner has another job")
}

// unproven tells whether an attempt may have run any job: its runner was
// registered, and GitHub has not said for which.
func (a *Attempt) unproven() bool {
	return (a.State == AttemptLive || a.State == AttemptEnded) && a.RunningAt.IsZero() && a.Runner.Name != ""
}

// bindLate is for a job that ran in an attempt that was over before GitHub said
// so. What the job and the attempt were taken for since is undone.
func (u *unit) bindLate(ctx context.Context, ev *nimbus.ForgeEvent, p parties) (bool, error) {
	j, a, holder := p.job, p.attempt, p.holder
	if a.State != AttemptEnded || !a.unproven() || !a.mayRun(holder, j) {
		return false, nil
	}
	own, err := u.current(ctx, j)
	if err != nil {
		return false, err
	}
	if own != nil && own.AttemptID != a.AttemptID {
		if err := u.endOffer(ctx, own); err != nil {
			return false, err
		}
		if err := u.release(ctx, own, u.now); err != nil {
			return false, err
		}
	}
	if err := u.advance(ctx, j, a); err != nil {
		return false, err
	}
	if holder != j {
		if err := u.bereave(ctx, holder, a, "its runner took job "+j.ID); err != nil {
			return false, err
		}
	}
	a.Runner.ID = ev.RunnerID
	a.RemoveRunnerAt = time.Time{}
	return true, u.running(ctx, j, a, actorGitHub)
}

// bereave takes from a job the attempt that another one had: it is demand as
// before, and that was no attempt of it.
func (u *unit) bereave(ctx context.Context, j *JobRecord, a *Attempt, why string) error {
	if j.AttemptID != a.AttemptID || j.State == nimbus.StateFinished {
		return nil
	}
	j.AttemptID = ""
	j.AttemptCount = max(j.AttemptCount-1, 0)
	switch {
	case j.State != nimbus.StateAccepted:
		return u.SaveJob(ctx, j)
	case j.Stop.Result != "":
		return u.finish(ctx, j, j.Stop, actorGitHub)
	}
	j.CheckAt, j.Checks = time.Time{}, 0
	return u.move(ctx, j, Move{To: nimbus.StateQueued, Actor: actorGitHub, Detail: why})
}
