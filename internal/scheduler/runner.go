package scheduler

import (
	"context"
	"time"

	"github.com/nimbus-ci/nimbus"
)

const (
	// forgeTimeout bounds one call to GitHub.
	forgeTimeout = 30 * time.Second
	// bindTimeout is how long in_progress may take to arrive after a runner was
	// registered, before GitHub is asked: events get lost.
	bindTimeout = time.Minute
)

// CreateRunner registers the GitHub runner of an attempt and returns its
// single-use configuration. The runner's name is in the books before GitHub is
// asked, so that a crash in between leaves nothing unknown. When the name is
// taken, or GitHub registers no runner for a while, the attempt is over and the
// job is offered anew. Codes: fenced, conflict, invalid, and those of Forge.
func (s *Service) CreateRunner(ctx context.Context, hostID string, l nimbus.Lease) (nimbus.Runner, string, error) {
	var job nimbus.Job
	var before nimbus.Runner
	keys := Keys{Attempts: []string{l.AttemptID}}
	err := s.gather.do(ctx, keys, func(ctx context.Context, u *unit) error {
		j, a, err := u.wantsRunner(ctx, hostID, l)
		if err != nil {
			return err
		}
		job, before = j.Job, a.Runner
		a.Runner = nimbus.Runner{Name: nimbus.RunnerName(a.AttemptID), Org: s.runnerOrg(&j.Job)}
		return u.SaveAttempt(ctx, a)
	})
	if err != nil {
		return nimbus.Runner{}, "", err
	}
	asking, cancel := context.WithTimeout(ctx, forgeTimeout)
	defer cancel()
	r, jit, err := s.registered(asking, &job, nimbus.RunnerName(l.AttemptID), before)
	switch {
	case nimbus.ErrorCode(err) == nimbus.CodeConflict:
		return nimbus.Runner{}, "", s.runnerTaken(ctx, hostID, l, err)
	case nimbus.ErrorRetryAfter(err) > worthWaiting:
		return nimbus.Runner{}, "", s.runnerLater(ctx, hostID, l, err)
	case err != nil:
		return nimbus.Runner{}, "", err
	}
	return r, jit, s.runnerCreated(ctx, hostID, l, r)
}

// wantsRunner returns the job and attempt of a lease that may register a runner.
func (u *unit) wantsRunner(ctx context.Context, hostID string, l nimbus.Lease) (*JobRecord, *Attempt, error) {
	j, a, err := u.lease(ctx, hostID, l)
	switch {
	case err != nil:
		return nil, nil, err
	case a.State != AttemptLive || !a.ExpiresAt.After(u.now):
		return nil, nil, fenced(l)
	case j.Source != nimbus.SourceGitHub:
		return nil, nil, nimbus.Errorf(nimbus.CodeInvalid, "job %s is not GitHub's and needs no runner", j.ID)
	case j.State != nimbus.StateAccepted || j.AttemptID != a.AttemptID || !a.StopAt.IsZero():
		return nil, nil, nimbus.Errorf(nimbus.CodeConflict, "job %s wants no runner any more", j.ID)
	}
	return j, a, nil
}

func (s *Service) runnerCreated(ctx context.Context, hostID string, l nimbus.Lease, r nimbus.Runner) error {
	gone := false
	err := s.gather.do(ctx, Keys{Attempts: []string{l.AttemptID}}, func(ctx context.Context, u *unit) error {
		j, a, err := u.lease(ctx, hostID, l)
		if err != nil {
			return err
		}
		a.Runner = r
		if gone = a.State != AttemptLive; gone {
			a.RemoveRunnerAt = u.now
		}
		if err := u.SaveAttempt(ctx, a); err != nil || gone {
			return err
		}
		if j.State == nimbus.StateAccepted && j.AttemptID == a.AttemptID {
			j.CheckAt = u.now.Add(bindTimeout)
			if err := u.SaveJob(ctx, j); err != nil {
				return err
			}
		}
		return u.note(ctx, j, "runner_registered", a.AttemptID, actorHost(hostID), r.Name)
	})
	if err == nil && gone {
		return fenced(l)
	}
	return err
}

// runnerTaken ends an attempt whose name GitHub has already: the next one has
// another name.
func (s *Service) runnerTaken(ctx context.Context, hostID string, l nimbus.Lease, cause error) error {
	err := s.update(ctx, func(u *unit) error {
		j, a, err := u.wantsRunner(ctx, hostID, l)
		if err != nil {
			return err
		}
		if err := u.endAttempt(ctx, a, nil, false); err != nil {
			return err
		}
		return u.again(ctx, j, nimbus.Reason{Code: nimbus.ReasonForge, Message: "GitHub has a runner of that name already"}, actorGitHub)
	})
	if err != nil {
		return err
	}
	return &nimbus.Error{Code: nimbus.CodeConflict, Message: "GitHub has a runner of that name already; the job is offered anew", Err: cause}
}

// Bounds of deregistering a runner that never got a job.
const (
	removeRetry  = time.Minute
	removeGiveUp = time.Hour // GitHub removes an ephemeral runner by itself within a day
)

// removeRunner deregisters the runner of an attempt that is over, or is to be
// unless the runner has a job.
func (s *Service) removeRunner(ctx context.Context, attemptID string) error {
	var job nimbus.GitHubJob
	var r nimbus.Runner
	err := s.update(ctx, func(u *unit) error {
		j, a, err := u.lockAttempt(ctx, attemptID)
		if err != nil || a.RemoveRunnerAt.IsZero() || a.RemoveRunnerAt.After(u.now) {
			return err
		}
		job, r = j.GitHub, a.Runner
		a.RemoveRunnerAt = u.now.Add(removeRetry) // until known better
		if !a.EndedAt.IsZero() && u.now.Sub(a.EndedAt) > removeGiveUp {
			a.RemoveRunnerAt = time.Time{}
		}
		return u.SaveAttempt(ctx, a)
	})
	if err != nil || r.Name == "" {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, forgeTimeout)
	defer cancel()
	err = s.forge.RemoveRunner(ctx, job, r)
	// A conflict means that it has a job after all: GitHub removes it then.
	if code := nimbus.ErrorCode(err); err != nil && code != nimbus.CodeConflict && code != nimbus.CodeNotFound {
		return err
	}
	busy := nimbus.ErrorCode(err) == nimbus.CodeConflict
	return s.update(ctx, func(u *unit) error {
		j, a, err := u.lockAttempt(ctx, attemptID)
		if err != nil || a.RemoveRunnerAt.IsZero() { // it was bound meanwhile
			return err
		}
		return u.letGo(ctx, j, a, busy)
	})
}
