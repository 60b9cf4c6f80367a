package scheduler

import (
	"context"
	"fmt"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/bus"
)

// Graces: how long something that should have ended may go on.
const (
	runGrace  = time.Minute // past a job's timeout, which its host enforces itself
	stopGrace = time.Minute // after the host was told to stop; then the job ends without its word
)

// kindStopping is the history's word for a job that was asked to stop.
const kindStopping = "stopping"

// fenced refuses a write of a host that does not hold the lease.
func fenced(l nimbus.Lease) error {
	return nimbus.Errorf(nimbus.CodeFenced, "the lease on attempt %s is not this host's", l.AttemptID)
}

// lease locks the job of a lease and returns it with the attempt. It is fenced
// unless that attempt was offered to this host with this fence; which state the
// attempt is in is for the caller to judge.
func (u *unit) lease(ctx context.Context, hostID string, l nimbus.Lease) (*JobRecord, *Attempt, error) {
	j, a, err := u.lockAttempt(ctx, l.AttemptID)
	if nimbus.ErrorCode(err) == nimbus.CodeNotFound {
		return nil, nil, fenced(l)
	}
	if err != nil {
		return nil, nil, err
	}
	if a.HostID != hostID || a.Fence != l.Fence {
		return nil, nil, fenced(l)
	}
	return j, a, nil
}

// lockAttempt locks the job of an attempt and reads both.
func (u *unit) lockAttempt(ctx context.Context, attemptID string) (*JobRecord, *Attempt, error) {
	before, err := u.Attempt(ctx, attemptID)
	if err != nil {
		return nil, nil, err
	}
	j, err := u.LockJob(ctx, before.JobID)
	if err != nil {
		return nil, nil, err
	}
	a, err := u.Attempt(ctx, attemptID)
	if err != nil {
		return nil, nil, err
	}
	if a.JobID != j.ID {
		return nil, nil, fmt.Errorf("attempt %s was given to another job: %w", attemptID, ErrRace)
	}
	return j, a, nil
}

// current is the attempt that a job has now, nil when it has none.
func (u *unit) current(ctx context.Context, j *JobRecord) (*Attempt, error) {
	if j.AttemptID == "" {
		return nil, nil
	}
	a, err := u.Attempt(ctx, j.AttemptID)
	if err != nil {
		return nil, fmt.Errorf("read attempt %s of job %s: %w", j.AttemptID, j.ID, err)
	}
	return a, nil
}

// stopAttempt tells the host of a live attempt to stop it, from at on. An
// earlier time that was told before holds.
func (u *unit) stopAttempt(ctx context.Context, a *Attempt, at time.Time) error {
	if a.State != AttemptLive || !a.StopAt.IsZero() && !a.StopAt.After(at) {
		return nil
	}
	a.StopAt = at
	if !at.After(u.now) {
		u.publish(bus.HostTopic(a.HostID), a.AttemptID)
	}
	return u.SaveAttempt(ctx, a)
}

// coolHost keeps a host from offers until a time.
func (u *unit) coolHost(ctx context.Context, hostID string, until time.Time) error {
	u.fleet.cool(hostID, until)
	return u.CoolHost(ctx, hostID, until)
}

// endOffer makes an offer that was not accepted void for good.
func (u *unit) endOffer(ctx context.Context, a *Attempt) error {
	if a == nil || a.State != AttemptOffered && a.State != AttemptLapsed {
		return nil
	}
	a.State, a.EndedAt = AttemptEnded, u.now
	return u.SaveAttempt(ctx, a)
}

// endAttempt ends a live attempt: its lease is nobody's from now on and its
// tokens are void. outcome is nil when its host did not tell one. ranJob says
// that GitHub is known to have given its runner a job; a runner that had none
// is still registered and has to be removed.
func (u *unit) endAttempt(ctx context.Context, a *Attempt, outcome *nimbus.Outcome, ranJob bool) error {
	if outcome == nil {
		outcome = a.Outcome // of one that was held
	}
	a.State, a.EndedAt, a.Outcome, a.TokenHash = AttemptEnded, u.now, outcome, ""
	if a.Runner.Name != "" && !ranJob {
		a.RemoveRunnerAt = u.now
	}
	if err := u.SaveAttempt(ctx, a); err != nil {
		return err
	}
	if outcome == nil {
		return nil
	}
	u.publish(bus.LogTopic(a.AttemptID), "") // its log may be complete by this
	return u.SetLogTotal(ctx, a.AttemptID, outcome.LogLines)
}

// again gives a job whose attempt is over back to the queue with its old rank,
// or ends it when its attempts are used up. One of GitHub's is held instead.
func (u *unit) again(ctx context.Context, j *JobRecord, why nimbus.Reason, actor string) error {
	if j.AttemptCount >= j.MaxAttempts {
		used := nimbus.Reason{Code: nimbus.ReasonAttemptsUsed,
			Message: fmt.Sprintf("%d attempts ended before the job was done; the last: %s", j.AttemptCount, why.Message)}
		if j.Source == nimbus.SourceGitHub {
			return u.hold(ctx, j, used, actor)
		}
		return u.finish(ctx, j, Ending{nimbus.ResultFailure, used}, actor)
	}
	j.CheckAt, j.Checks = time.Time{}, 0
	return u.move(ctx, j, Move{To: nimbus.StateQueued, Actor: actor, Detail: why.Message, Cause: why.Code})
}
