package demand

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// mostAgain bounds the runs that are to be looked into once more; polling finds
// what is beyond it.
const mostAgain = 1000

// runKey is a run of a repository.
type runKey struct {
	repo nimbus.ForgeRepo
	id   int64
}

// listening is one session.
type listening struct {
	*Listener

	set     nimbus.ScaleSet
	session nimbus.ScaleSetSession
	last    int64 // message that was dealt with
	heard   bool
	toldAt  time.Time
	again   map[runKey]time.Time // when to look into runs once more
}

// run listens until something is in the way. What session was open before is
// ended first: it is that of a leader that did not get to it.
func (s *listening) run(ctx context.Context) (err error) {
	if before := s.set.State.Session; before != "" {
		if err := s.GitHub.CloseSession(ctx, s.set, before); err != nil {
			return fmt.Errorf("end the session of before: %w", err)
		}
	}
	if s.session, err = s.GitHub.OpenSession(ctx, s.set, s.Owner); err != nil {
		if nimbus.ErrorCode(err) == nimbus.CodeConflict {
			err = fmt.Errorf("somebody else listens, or did until a moment ago: %w", err)
		}
		return err
	}
	defer s.close(ctx)
	s.set.State.Session = s.session.ID
	if err := s.Store.SaveScaleSetSession(ctx, s.set.ID, s.session.ID); err != nil {
		return fmt.Errorf("remember the session: %w", err)
	}
	for {
		if err := s.next(ctx); err != nil {
			return err
		}
	}
}

// close lets the next listener begin at once.
func (s *listening) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeWithin)
	defer cancel()
	if err := s.GitHub.CloseSession(ctx, s.set, s.session.ID); err != nil {
		s.Log.InfoContext(ctx, "the session was not closed; whoever listens next does it", "scale_set", s.set.Name, "error", err)
	}
}

// next waits for a message and deals with it, and with runs that are due.
func (s *listening) next(ctx context.Context) error {
	waiting, cancel := s.untilDue(ctx)
	defer cancel()
	m, err := s.GitHub.NextMessage(waiting, s.set, &s.session, s.last, s.set.MaxRunners)
	if err != nil && waiting.Err() != nil && ctx.Err() == nil {
		s.lookDue(ctx)
		return nil
	}
	if err != nil {
		return err
	}
	if m != nil {
		if err := s.handle(ctx, m); err != nil {
			return fmt.Errorf("message %d: %w", m.ID, err) // it comes again
		}
		if err := s.GitHub.Acknowledge(ctx, s.set, &s.session, m.ID); err != nil {
			return err
		}
		s.last = m.ID
	}
	// Only now: a message that can't be handled is trouble, each time it comes.
	if err := s.tell(ctx, m); err != nil {
		return err
	}
	s.lookDue(ctx)
	return ctx.Err()
}

// tell writes down how it goes, now and then.
func (s *listening) tell(ctx context.Context, m *nimbus.ScaleSetMessage) error {
	before := s.set.State
	if m != nil {
		s.set.State.Assigned, s.set.State.Running = m.Assigned, m.Running
	}
	s.set.State.Trouble = ""
	if s.heard && before == s.set.State && time.Since(s.toldAt) < tellEvery {
		return nil
	}
	s.heard, s.toldAt = true, time.Now()
	return s.Store.SaveScaleSetState(ctx, s.set.ID, true, s.set.State)
}

// handle takes the jobs that may be had, and looks into each run that the
// message tells of.
func (s *listening) handle(ctx context.Context, m *nimbus.ScaleSetMessage) error {
	var available []int64
	runs := map[runKey]bool{}
	for _, j := range m.Jobs {
		if j.Kind == nimbus.ScaleSetJobAvailable {
			available = append(available, j.RequestID)
		}
		runs[runKey{j.Repo, j.RunID}] = true
	}
	if len(available) > 0 {
		if err := s.GitHub.Acquire(ctx, s.set, &s.session, available); err != nil {
			return err
		}
	}
	for run := range runs {
		if err := s.look(ctx, run); err != nil {
			return err
		}
		if len(s.again) < mostAgain {
			s.again[run] = time.Now().Add(s.lookAgain())
		}
	}
	return nil
}

func (s *listening) lookAgain() time.Duration { return cmp.Or(s.LookAgain, lookAgain) }

// look takes what GitHub says of the jobs of a run.
func (s *listening) look(ctx context.Context, run runKey) error {
	for page, more := 1, true; more && page <= mostPages; page++ {
		jobs, next, err := s.GitHub.RunJobs(ctx, run.repo, run.id, page)
		switch nimbus.ErrorCode(err) {
		case "":
		case nimbus.CodeForbidden, nimbus.CodeNotFound: // it is gone, or not ours to see
			s.Log.InfoContext(ctx, "a run can't be looked at", "repo", run.repo.Owner+"/"+run.repo.Name, "run", run.id, "error", err)
			return nil
		default:
			return err
		}
		for i := range jobs {
			if err := s.Jobs.Observe(ctx, &jobs[i]); err != nil {
				return fmt.Errorf("observe job %d: %w", jobs[i].Job.JobID, err)
			}
		}
		more = next
	}
	return nil
}

// untilDue ends when a run is to be looked into.
func (s *listening) untilDue(ctx context.Context) (context.Context, context.CancelFunc) {
	var first time.Time
	for _, at := range s.again {
		if first.IsZero() || at.Before(first) {
			first = at
		}
	}
	if first.IsZero() {
		return context.WithCancel(ctx)
	}
	return context.WithDeadline(ctx, first)
}

// lookDue looks into the runs whose time has come. One that can't be looked into
// now is later: their messages are acknowledged, and come no more.
func (s *listening) lookDue(ctx context.Context) {
	now := time.Now()
	for run, at := range s.again {
		if at.After(now) {
			continue
		}
		if err := s.look(ctx, run); err != nil {
			s.Log.InfoContext(ctx, "a run is looked into later", "repo", run.repo.Owner+"/"+run.repo.Name, "run", run.id, "error", err)
			s.again[run] = now.Add(max(s.lookAgain(), nimbus.ErrorRetryAfter(err)))
			continue
		}
		delete(s.again, run)
	}
}
