package scheduler

import (
	"context"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Times of a GitHub job whose runner ended before GitHub said how the job did.
const (
	reportGrace   = 10 * time.Second // then GitHub is asked
	reportTimeout = 5 * time.Minute  // then nobody knows: lost
	reportGiveUp  = 24 * time.Hour   // then too, though GitHub could not be asked
)

// Finish records how the process of an attempt ended. For a native job that is
// its end; a GitHub job ends when GitHub says so. Repeating it is safe. What the
// attempt used is kept if it can be believed: no job's end depends on that.
// Codes: fenced, invalid.
func (s *Service) Finish(ctx context.Context, hostID string, l nimbus.Lease, o nimbus.Outcome) error {
	if err := checkOutcome(o); err != nil {
		return err
	}
	if o.Usage.Sandbox.Check() != nil {
		o.Usage.Sandbox = nimbus.UsageTotals{}
	}
	o.Reason.Message = clip(o.Reason.Message)
	return s.gather.do(ctx, Keys{Attempts: []string{l.AttemptID}}, func(ctx context.Context, u *unit) error {
		j, a, err := u.lease(ctx, hostID, l)
		switch {
		case err != nil:
			return err
		case a.State == AttemptEnded && a.Outcome != nil:
			return nil // repeated
		case a.State != AttemptLive:
			return fenced(l)
		}
		if a.held() {
			return u.heldEnded(ctx, j, a)
		}
		if err := u.endAttempt(ctx, a, &o, !a.RunningAt.IsZero()); err != nil {
			return err
		}
		u.tally.Ended = append(u.tally.Ended, Ended{Class: j.Class, Run: nimbus.Run{AcceptedAt: a.AcceptedAt, SandboxReadyAt: a.SandboxReadyAt,
			RunningAt: a.RunningAt, FinishedAt: a.EndedAt, Usage: o.Usage.Sandbox}})
		if len(o.Series.Points) > 0 && o.Series.Check() == nil {
			if err := u.SaveUsage(ctx, a, o.Series); err != nil {
				return err
			}
		}
		if j.AttemptID != a.AttemptID || j.State == nimbus.StateFinished {
			return u.note(ctx, j, kindExited, a.AttemptID, actorHost(hostID), string(o.Result))
		}
		if err := u.ended(ctx, j, a, o); err != nil {
			return err
		}
		u.promoteLater(j.Class)
		return nil
	})
}

// kindExited is the history's word for a process that ended without ending its
// job.
const kindExited = "exited"

func checkOutcome(o nimbus.Outcome) error {
	switch o.Result {
	case nimbus.ResultSuccess, nimbus.ResultFailure, nimbus.ResultCancelled, nimbus.ResultTimedOut:
	default:
		return nimbus.Errorf(nimbus.CodeInvalid, "a host can't report the result %q", clip(string(o.Result)))
	}
	if o.LogLines < 0 {
		return nimbus.Errorf(nimbus.CodeInvalid, "a log can't have %d lines", o.LogLines)
	}
	return nil
}

// ended decides what becomes of a job whose attempt has just ended.
func (u *unit) ended(ctx context.Context, j *JobRecord, a *Attempt, o nimbus.Outcome) error {
	actor := actorHost(a.HostID)
	byItself := o.Result == nimbus.ResultSuccess || o.Result == nimbus.ResultFailure
	switch {
	case j.Stop.Result != "" && (!byItself || j.Source == nimbus.SourceGitHub || o.BeforeStart):
		return u.finish(ctx, j, j.Stop, actor)
	case j.State == nimbus.StateAccepted && o.BeforeStart && (permanent(o.Reason.Code) || !byItself && !hostsFault(o.Reason.Code)):
		return u.finish(ctx, j, Ending{notSuccess(o.Result), o.Reason}, actor)
	case j.Source == nimbus.SourceGitHub:
		return u.runnerEnded(ctx, j, a, o)
	case j.State == nimbus.StateAccepted && o.BeforeStart,
		j.State == nimbus.StateRunning && j.Spec.Repeatable && hostsFault(o.Reason.Code):
		return u.again(ctx, j, o.Reason, actor)
	case j.State == nimbus.StateAccepted: // it ran, and the report of its start was lost
		if err := u.running(ctx, j, a, actor); err != nil {
			return err
		}
	}
	if o.Reason.Code == nimbus.ReasonLeaseExpired {
		o.Result = nimbus.ResultLost // what the sweep would have found, had the host come back later
	}
	return u.finish(ctx, j, Ending{o.Result, o.Reason}, actor)
}

// runnerEnded is for a GitHub job whose runner process has ended. Whether it
// had the job, and how that went, is GitHub's to say.
func (u *unit) runnerEnded(ctx context.Context, j *JobRecord, a *Attempt, o nimbus.Outcome) error {
	actor := actorHost(a.HostID)
	if j.State == nimbus.StateAccepted && o.BeforeStart && o.Reason.Code == nimbus.ReasonForgeAway {
		j.AttemptCount-- // neither the job's fault nor the host's
	}
	if j.State == nimbus.StateAccepted && a.Runner.Name == "" { // GitHub never knew of it
		return u.again(ctx, j, o.Reason, actor)
	}
	if err := u.note(ctx, j, kindExited, a.AttemptID, actor, string(o.Result)); err != nil {
		return err
	}
	if j.State == nimbus.StateRunning {
		return u.awaitReport(ctx, j)
	}
	return u.checkAgain(ctx, j, 0)
}

// awaitReport gives GitHub a while to tell how a job ended whose runner is
// gone, and then asks; the while does not begin anew with each answer.
func (u *unit) awaitReport(ctx context.Context, j *JobRecord) error {
	if until := u.now.Add(reportTimeout); j.DueAt.IsZero() || j.DueAt.After(until) {
		j.DueAt = until
	}
	return u.checkAgain(ctx, j, reportGrace)
}

// unasked tells whether GitHub should have been asked long ago how a job ended:
// nobody was there to do it.
func (u *unit) unasked(j *JobRecord, live bool) bool {
	return j.Source == nimbus.SourceGitHub && j.State == nimbus.StateRunning && !live && j.Stop.Result == "" &&
		!j.CheckAt.IsZero() && u.now.Sub(j.CheckAt) > checkTaken
}

// unanswered has GitHub asked again after a while. A job whose end GitHub alone
// knows stays open for as long as it can't be asked, but not for ever.
func (u *unit) unanswered(ctx context.Context, j *JobRecord, after time.Duration) error {
	a, err := u.current(ctx, j)
	if err != nil {
		return err
	}
	ended := a != nil && a.State == AttemptEnded && j.State == nimbus.StateRunning
	if ended && u.now.Sub(a.EndedAt) < reportGiveUp {
		j.DueAt = later(j.DueAt, u.now.Add(after+reportTimeout))
	}
	return u.checkAgain(ctx, j, after)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// permanent tells whether trying elsewhere would end the same way.
func permanent(code nimbus.ReasonCode) bool {
	switch code {
	case nimbus.ReasonImageNotFound, nimbus.ReasonWorkspace, nimbus.ReasonForge, nimbus.ReasonLimit:
		return true
	}
	return false
}

// hostsFault tells whether a job ended because of its host or sandbox.
func hostsFault(code nimbus.ReasonCode) bool {
	return code == nimbus.ReasonSandboxFailed || code == nimbus.ReasonHostShutdown || code == nimbus.ReasonLeaseExpired
}

// notSuccess is for what ended before it began: that can't be a success.
func notSuccess(r nimbus.Result) nimbus.Result {
	if r == nimbus.ResultSuccess {
		return nimbus.ResultFailure
	}
	return r
}
