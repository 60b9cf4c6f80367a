package scheduler

import (
	"context"
	"fmt"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/bus"
)

// Words of the history for a sandbox that stays after its job has failed.
const (
	kindHeld     = "held"
	kindReleased = "released"
)

// held tells whether the sandbox of an attempt stays although its job is over:
// its lease lasts on, with an outcome, until StopAt.
func (a *Attempt) held() bool { return a.State == AttemptLive && a.Outcome != nil }

// FinishHeld is Finish of an attempt whose sandbox the host keeps for shells, if
// the job wants that after this outcome; held tells whether it does. The job's
// end is the same, and the same at once. Repeating it is safe. Codes: fenced,
// invalid.
func (s *Service) FinishHeld(ctx context.Context, hostID string, l nimbus.Lease, o nimbus.Outcome) (held bool, err error) {
	if err := checkOutcome(o); err != nil {
		return false, err
	}
	wanted := false
	o.Reason.Message = clip(o.Reason.Message)
	err = s.gather.do(ctx, Keys{Attempts: []string{l.AttemptID}}, func(ctx context.Context, u *unit) error {
		held, wanted = false, false
		j, a, err := u.lease(ctx, hostID, l)
		switch {
		case err != nil:
			return err
		case a.held():
			held = true // repeated
			return nil
		case a.State != AttemptLive || !mayHold(j, a, o):
			return nil
		}
		held, wanted = true, true
		return u.holdSandbox(ctx, j, a, o)
	})
	if err != nil || held || wanted {
		return held, err
	}
	return false, s.Finish(ctx, hostID, l, o)
}

// mayHold tells whether a job wants its sandbox to stay after an outcome: after
// a failure of its own, which nothing is run again for.
func mayHold(j *JobRecord, a *Attempt, o nimbus.Outcome) bool {
	return j.Source == nimbus.SourceNative && j.Spec.Hold > 0 && j.AttemptID == a.AttemptID && j.State.Live() && j.Stop.Result == "" &&
		o.Result == nimbus.ResultFailure && !o.BeforeStart && !hostsFault(o.Reason.Code)
}

func (u *unit) holdSandbox(ctx context.Context, j *JobRecord, a *Attempt, o nimbus.Outcome) error {
	a.Outcome, a.TokenHash, a.StopAt = &o, "", u.now.Add(min(j.Spec.Hold, nimbus.MaxHold))
	if err := u.SaveAttempt(ctx, a); err != nil {
		return err
	}
	if err := u.SetLogTotal(ctx, a.AttemptID, o.LogLines); err != nil {
		return err
	}
	u.publish(bus.LogTopic(a.AttemptID), "")
	if err := u.ended(ctx, j, a, o); err != nil {
		return err
	}
	u.promoteLater(j.Class)
	return u.note(ctx, j, kindHeld, a.AttemptID, actorHost(a.HostID), fmt.Sprintf("its sandbox stays for %v", min(j.Spec.Hold, nimbus.MaxHold)))
}

// heldEnded ends an attempt that was held. Its outcome stays what it was.
func (u *unit) heldEnded(ctx context.Context, j *JobRecord, a *Attempt) error {
	if err := u.endAttempt(ctx, a, nil, true); err != nil {
		return err
	}
	return u.note(ctx, j, kindReleased, a.AttemptID, actorHost(a.HostID), "")
}

// Release gives up the sandbox of a job that is held. One that is not held is
// returned as it is. Codes: not_found.
func (s *Service) Release(ctx context.Context, p nimbus.Principal, orgID, jobID string) (job nimbus.Job, err error) {
	if err := nimbus.CheckID(nimbus.PrefixJob, jobID); err != nil {
		return nimbus.Job{}, err
	}
	err = s.update(ctx, func(u *unit) error {
		if job, err = u.Job(ctx, orgID, jobID); err != nil {
			return err // not found in this org
		}
		j, err := u.LockJob(ctx, jobID)
		if err != nil {
			return err
		}
		a, err := u.current(ctx, j)
		if err != nil || a == nil || !a.held() || a.Stopping(u.now) {
			return err
		}
		if err := u.stopAttempt(ctx, a, u.now); err != nil {
			return err
		}
		if err := u.note(ctx, j, kindStopping, a.AttemptID, p.Actor(), "its sandbox is given up"); err != nil {
			return err
		}
		event := nimbus.AuditEvent{OrgID: orgID, Actor: p.Actor(), Action: "job.release", Target: jobID, Outcome: nimbus.AuditAllowed}
		if err := u.Audit(ctx, event); err != nil {
			return err
		}
		job, err = u.Job(ctx, orgID, jobID)
		return err
	})
	return job, err
}
