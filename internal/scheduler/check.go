package scheduler

import (
	"context"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Intervals of asking GitHub about a job.
const (
	checkTaken   = time.Minute      // nobody else asks while one is asking
	checkConfirm = 5 * time.Second  // a reading that would drop demand is taken twice: it lags
	checkRetry   = 15 * time.Second // GitHub did not answer
	// unknownChecks is how often GitHub must say that it knows no such job.
	unknownChecks = 3
)

// check asks GitHub about a job and brings the books in step. The question is
// asked outside any transaction.
func (s *Service) check(ctx context.Context, jobID string) error {
	var job nimbus.GitHubJob
	err := s.update(ctx, func(u *unit) error {
		j, err := u.LockJob(ctx, jobID)
		if err != nil || j.CheckAt.IsZero() || j.CheckAt.After(u.now) {
			return err
		}
		job = j.GitHub
		j.CheckAt = u.now.Add(checkTaken)
		return u.SaveJob(ctx, j)
	})
	if err != nil || job.JobID == 0 {
		return err
	}
	asking, cancel := context.WithTimeout(ctx, forgeTimeout)
	defer cancel()
	ev, asked := s.forge.JobStatus(asking, job)
	ev.Job = job // whatever it says, it was asked about this one
	return s.update(ctx, func(u *unit) error {
		p, err := u.lockParties(ctx, &ev)
		if err != nil {
			return err
		}
		if p.job == nil || p.job.State == nimbus.StateFinished {
			return nil
		}
		return u.answered(ctx, &ev, asked, p)
	})
}

// answered does what GitHub's answer about a job asks for.
func (u *unit) answered(ctx context.Context, ev *nimbus.ForgeEvent, asked error, p parties) error {
	j := p.job
	switch {
	case nimbus.ErrorCode(asked) == nimbus.CodeNotFound:
		return u.unknown(ctx, j)
	case asked != nil:
		return u.unanswered(ctx, j, max(checkRetry, nimbus.ErrorRetryAfter(asked)))
	case ev.Status == nimbus.ForgeQueued || ev.Status == nimbus.ForgeWaiting:
		return u.stillQueued(ctx, j)
	case ev.Status.Rank() == 0:
		return u.checkAgain(ctx, j, checkRetry)
	case j.State != nimbus.StateRunning && p.attempt == nil && j.Checks == 0:
		j.Checks++
		return u.checkAgain(ctx, j, checkConfirm)
	}
	if _, err := u.AdvanceForgeJob(ctx, ev); err != nil {
		return err
	}
	j.CheckAt, j.Checks = time.Time{}, 0
	if err := u.SaveJob(ctx, j); err != nil {
		return err
	}
	return u.apply(ctx, nimbus.Delivery{ReceivedAt: u.now}, ev, p)
}

func (u *unit) checkAgain(ctx context.Context, j *JobRecord, after time.Duration) error {
	j.CheckAt = u.now.Add(after)
	return u.SaveJob(ctx, j)
}

// stillQueued is for a job that GitHub has a runner for neither here nor
// elsewhere.
func (u *unit) stillQueued(ctx context.Context, j *JobRecord) error {
	switch j.State {
	case nimbus.StateAccepted:
		a, err := u.current(ctx, j)
		if err != nil {
			return err
		}
		if a.State == AttemptLive { // its runner is up, or will be
			return u.checkAgain(ctx, j, bindTimeout)
		}
		if a.Outcome != nil && a.Outcome.Reason.Code != nimbus.ReasonRunnerRefused && !a.StartedAt.IsZero() && a.EndedAt.Sub(a.StartedAt) >= bindTimeout {
			// Its runner took another job, or GitHub removed it since it had none.
			return u.bereave(ctx, j, a, whyAgain(a).Message)
		}
		return u.again(ctx, j, whyAgain(a), actorSystem)
	case nimbus.StateRunning:
		return u.checkAgain(ctx, j, reportGrace) // it was proved to run: the answer lags
	case nimbus.StateUnschedulable:
		switch j.Reason.Code {
		case nimbus.ReasonForge: // its event was too old to be believed unasked
			return u.backInLine(ctx, j, actorGitHub, "GitHub still wants it")
		case nimbus.ReasonAttemptsUsed:
			return u.stillHeld(ctx, j)
		}
		return u.checkAgain(ctx, j, elsewhereRecheck)
	}
	j.CheckAt, j.Checks = time.Time{}, 0
	return u.SaveJob(ctx, j)
}

// backInLine has a job wait for a host that was kept from all.
func (u *unit) backInLine(ctx context.Context, j *JobRecord, actor, why string) error {
	p, err := u.placeSurely(ctx, j)
	if err != nil {
		return err
	}
	j.CheckAt, j.Checks = time.Time{}, 0
	j.Class = p.class
	if p.unschedulable {
		j.Reason = p.reason
		u.changed(j)
		return u.SaveJob(ctx, j)
	}
	if err := u.move(ctx, j, Move{To: nimbus.StatePending, Reason: p.reason, Actor: actor, Detail: why}); err != nil {
		return err
	}
	u.promoteLater(j.Class)
	return nil
}

// unknown is for a job that GitHub says it does not have.
func (u *unit) unknown(ctx context.Context, j *JobRecord) error {
	j.Checks++
	if j.Checks < unknownChecks {
		return u.checkAgain(ctx, j, checkConfirm)
	}
	e := Ending{nimbus.ResultCancelled, nimbus.Reason{Code: nimbus.ReasonForge, Message: "GitHub has no such job any more"}}
	return u.stop(ctx, j, e, actorGitHub)
}

// whyAgain tells why an attempt that got no job is over.
func whyAgain(a *Attempt) nimbus.Reason {
	switch {
	case a.Outcome == nil:
		return leaseExpired(a)
	case a.Outcome.Reason.Code != "":
		return a.Outcome.Reason
	}
	return nimbus.Reason{Code: nimbus.ReasonSandboxFailed, Message: "its runner ended without having had the job"}
}
