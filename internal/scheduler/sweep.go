package scheduler

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// How often what is looked for. Each look is a few index reads, so that an idle
// server uses no CPU worth telling.
const (
	sweepInterval  = time.Second
	reviewInterval = 15 * time.Second
	purgeInterval  = time.Hour
	// ledgerKept is how long deliveries are remembered. GitHub redelivers for
	// 3 days, GitHub Enterprise Server for 7.
	ledgerKept = 14 * 24 * time.Hour

	sweepBatch = 100 // of each kind per sweep; the next one goes on
	purgeBatch = 5000
	asksAtOnce = 4 // questions to GitHub
)

// Run implements lifecycle.Service: it ends what has lasted too long, and asks
// GitHub about what it did not tell, until ctx ends. Of many replicas one does it at
// a time.
func (s *Service) Run(ctx context.Context, ready func()) error {
	ready()
	if s.cfg.Lead == nil {
		s.work(ctx)
		return nil
	}
	s.cfg.Lead(ctx, s.work)
	return nil
}

// work is what one replica does for all, until ctx ends.
func (s *Service) work(ctx context.Context) {
	var loops sync.WaitGroup
	loops.Go(func() { s.every(ctx, "sweep", sweepInterval, s.sweep) })
	loops.Go(func() { s.every(ctx, "review placement", reviewInterval, s.reviewAll) })
	loops.Go(func() {
		var all repairs
		s.every(ctx, "look for jobs that are nowhere", repairInterval, func(ctx context.Context) error { return all.next(ctx, s) })
	})
	loops.Go(func() {
		var all places
		s.every(ctx, "look for places of limits that nobody uses", placesInterval, func(ctx context.Context) error { return all.next(ctx, s) })
	})
	loops.Go(func() { s.every(ctx, "purge", purgeInterval, s.purge) })
	if s.forge != nil {
		loops.Go(func() { s.every(ctx, "ask GitHub", sweepInterval, s.askForge) })
	}
	loops.Wait()
}

// every does something at once and then at an interval. A failure is told and
// tried again the next time.
func (s *Service) every(ctx context.Context, what string, interval time.Duration, do func(context.Context) error) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		if err := do(ctx); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, what+" failed, it is tried again", "in", interval, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// sweep ends offers, leases and states that have lasted too long.
func (s *Service) sweep(ctx context.Context) error {
	var expired, due []string
	err := s.store.View(ctx, func(r Reader) (err error) {
		if expired, err = r.ExpiredAttempts(ctx, sweepBatch); err != nil {
			return err
		}
		due, err = r.DueJobs(ctx, sweepBatch)
		return err
	})
	if err != nil {
		return err
	}
	var errs []error // one that fails must not keep the others from their end
	for _, id := range expired {
		if err := s.update(ctx, func(u *unit) error { return u.expire(ctx, id) }); err != nil {
			errs = append(errs, fmt.Errorf("attempt %s: %w", id, err))
		}
	}
	for _, id := range due {
		if err := s.update(ctx, func(u *unit) error { return u.due(ctx, id) }); err != nil {
			errs = append(errs, fmt.Errorf("job %s: %w", id, err))
		}
	}
	return errors.Join(errs...)
}

// expire ends an offer or a lease that has run out.
func (u *unit) expire(ctx context.Context, attemptID string) error {
	j, a, err := u.lockAttempt(ctx, attemptID)
	if nimbus.ErrorCode(err) == nimbus.CodeNotFound { // lapsed, and offered anew since
		return nil
	}
	if err != nil || a.ExpiresAt.After(u.now) {
		return err
	}
	switch a.State {
	case AttemptOffered:
		return u.lapse(ctx, j, a)
	case AttemptLive:
		return u.leaseLost(ctx, j, a)
	}
	return nil
}

// lapse gives a job that was not accepted in time back to the queue, with the
// rank that it had.
func (u *unit) lapse(ctx context.Context, j *JobRecord, a *Attempt) error {
	a.State = AttemptLapsed
	if err := u.SaveAttempt(ctx, a); err != nil {
		return err
	}
	if err := u.coolHost(ctx, a.HostID, u.now.Add(coolDown)); err != nil {
		return err
	}
	if j.State != nimbus.StateOffered || j.AttemptID != a.AttemptID {
		return nil
	}
	return u.move(ctx, j, Move{To: nimbus.StateQueued, Actor: actorSystem, Detail: "not accepted in time", Cause: causeNotAccepted})
}

// leaseLost decides what becomes of a job whose host went silent.
//
//	               before it runs             while it runs
//	native         again, counted             lost; again if it is repeatable
//	GitHub         again, counted, after      lost, after GitHub was asked: it
//	               GitHub was asked           gives the job to nobody else
func (u *unit) leaseLost(ctx context.Context, j *JobRecord, a *Attempt) error {
	if err := u.endAttempt(ctx, a, nil, !a.RunningAt.IsZero()); err != nil {
		return err
	}
	u.tally.Expired++
	why := leaseExpired(a)
	switch {
	case j.AttemptID != a.AttemptID || j.State == nimbus.StateFinished:
		return u.note(ctx, j, "lease_expired", a.AttemptID, actorSystem, why.Message)
	case j.Stop.Result != "":
		if err := u.finish(ctx, j, j.Stop, actorSystem); err != nil {
			return err
		}
		u.promoteLater(j.Class)
		return nil
	case j.State == nimbus.StateAccepted && a.Runner.Name != "":
		j.CheckAt = u.now
		if err := u.SaveJob(ctx, j); err != nil {
			return err
		}
		return u.note(ctx, j, "lease_expired", a.AttemptID, actorSystem, why.Message)
	case j.State == nimbus.StateRunning && j.Source == nimbus.SourceGitHub:
		if err := u.note(ctx, j, "lease_expired", a.AttemptID, actorSystem, why.Message); err != nil {
			return err
		}
		return u.awaitReport(ctx, j) // it may have ended well, and its host could not say so
	case j.State == nimbus.StateAccepted,
		j.Source == nimbus.SourceNative && j.Spec.Repeatable:
		return u.again(ctx, j, why, actorSystem)
	}
	if err := u.finish(ctx, j, Ending{nimbus.ResultLost, why}, actorSystem); err != nil {
		return err
	}
	u.promoteLater(j.Class)
	return nil
}

func leaseExpired(a *Attempt) nimbus.Reason {
	return nimbus.Reason{Code: nimbus.ReasonLeaseExpired,
		Message: fmt.Sprintf("%s was not heard of for %d s", a.HostID, int(nimbus.LeaseDuration.Seconds()))}
}

// due ends a state that has lasted too long.
func (u *unit) due(ctx context.Context, jobID string) error {
	j, err := u.LockJob(ctx, jobID)
	if nimbus.ErrorCode(err) == nimbus.CodeNotFound {
		return u.SetDeadline(ctx, jobID, time.Time{})
	}
	if err != nil {
		return err
	}
	if j.DueAt.IsZero() || j.DueAt.After(u.now) { // it has moved away since
		return u.SetDeadline(ctx, jobID, j.DueAt)
	}
	a, err := u.current(ctx, j)
	if err != nil {
		return err
	}
	live := a != nil && a.State == AttemptLive
	if u.unasked(j, live) {
		j.DueAt = u.now.Add(checkTaken)
		return u.SaveJob(ctx, j)
	}
	if j.Stop.Result == "" {
		return u.stop(ctx, j, u.overdue(j, live), actorSystem)
	}
	if live { // the host was asked to stop it and did not answer
		if err := u.endAttempt(ctx, a, nil, !a.RunningAt.IsZero()); err != nil {
			return err
		}
	}
	if err := u.finish(ctx, j, j.Stop, actorSystem); err != nil {
		return err
	}
	u.promoteLater(j.Class)
	return nil
}

// overdue is how a job ends that was too long in its state.
func (u *unit) overdue(j *JobRecord, live bool) Ending {
	switch {
	case j.State == nimbus.StateRunning && !live:
		return Ending{nimbus.ResultLost, nimbus.Reason{Code: nimbus.ReasonUnreported,
			Message: fmt.Sprintf("GitHub did not say how it ended within %v", reportTimeout)}}
	case j.State == nimbus.StateRunning:
		return Ending{nimbus.ResultTimedOut, nimbus.Reason{Code: nimbus.ReasonTimeout,
			Message: fmt.Sprintf("it ran longer than %v", runTimeout(j))}}
	case j.State == nimbus.StateAccepted && j.Source == nimbus.SourceNative:
		return Ending{nimbus.ResultFailure, nimbus.Reason{Code: nimbus.ReasonSandboxFailed,
			Message: fmt.Sprintf("its process was not running %v after a host took it", u.cfg.StartTimeout)}}
	}
	reason := nimbus.Reason{Code: nimbus.ReasonQueueTimeout, Message: fmt.Sprintf("no host took it within %v", u.cfg.queueTimeout(j))}
	if j.Reason.Message != "" {
		reason.Message += ": " + j.Reason.Message
	}
	return Ending{nimbus.ResultTimedOut, reason}
}

// reviewAll puts waiting jobs in step with hosts that came or went, and fills
// windows that were left with room.
func (s *Service) reviewAll(ctx context.Context) error {
	waiting := false
	err := s.store.View(ctx, func(r Reader) error {
		classes, err := r.WaitingClasses(ctx)
		waiting = len(classes) > 0
		return err
	})
	if err != nil || !waiting {
		return err
	}
	return s.update(ctx, func(u *unit) error { return u.review(ctx) })
}

// purge forgets what is too old to be asked for.
func (s *Service) purge(ctx context.Context) error {
	return s.store.Update(ctx, func(tx Tx) error {
		_, err := tx.Purge(ctx, tx.Now().Add(-ledgerKept), purgeBatch)
		return err
	})
}

// askForge asks GitHub about the jobs that are to be checked, and deregisters
// runners that never got one.
func (s *Service) askForge(ctx context.Context) error {
	var jobs, runners, notices []string
	var reruns []RerunKey
	err := s.store.View(ctx, func(r Reader) (err error) {
		if s.reruns != nil {
			if reruns, err = r.DueReruns(ctx, sweepBatch); err != nil {
				return err
			}
		}
		if jobs, err = r.JobsToCheck(ctx, sweepBatch); err != nil {
			return err
		}
		if runners, err = r.RunnersToRemove(ctx, sweepBatch); err != nil || s.checks == nil {
			return err
		}
		notices, err = r.DueNotices(ctx, sweepBatch)
		return err
	})
	if err != nil {
		return err
	}
	room := make(chan struct{}, asksAtOnce)
	var asks sync.WaitGroup
	each := func(what string, id any, do func() error) {
		room <- struct{}{}
		asks.Go(func() {
			defer func() { <-room }()
			if err := do(); err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, what+" failed, it is tried again", "id", id, "error", err)
			}
		})
	}
	ask := func(what, id string, do func(context.Context, string) error) {
		each(what, id, func() error { return do(ctx, id) })
	}
	for _, id := range jobs {
		ask("asking GitHub about a job", id, s.check)
	}
	for _, id := range runners {
		ask("deregistering a runner", id, s.removeRunner)
	}
	for _, id := range notices {
		ask("telling GitHub of a job", id, s.notify)
	}
	for _, k := range reruns {
		each("having jobs of a run begun anew", k.RunID, func() error { return s.rerun(ctx, k) })
	}
	asks.Wait()
	return nil
}
