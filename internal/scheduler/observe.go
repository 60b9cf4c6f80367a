package scheduler

import (
	"context"
	"fmt"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Observe takes what GitHub says of a job now, found where no event told it. It
// does what the event would have done, which then comes late and has no effect,
// or came before, and then this has none.
func (s *Service) Observe(ctx context.Context, ev *nimbus.ForgeEvent) error {
	if !isOurs(ev) {
		return nil
	}
	now := *ev
	now.CreatedAt = time.Time{} // it is not old: GitHub has just said it
	return s.gather.do(ctx, keysOf(&now), func(ctx context.Context, u *unit) error {
		if err := u.event(ctx, nimbus.Delivery{ReceivedAt: u.now}, &now); err != nil {
			return fmt.Errorf("workflow job %d is %s: %w", now.Job.JobID, now.Status, err)
		}
		return nil
	})
}

// RunnerUse tells whether a runner of GitHub's is of an attempt in the books,
// and whether that is over, and has been for a while.
func (s *Service) RunnerUse(ctx context.Context, name string) (known, over bool, err error) {
	id := attemptOfRunner(name)
	if id == "" {
		return false, false, nil
	}
	err = s.store.View(ctx, func(r Reader) error {
		a, err := r.Attempt(ctx, id)
		if nimbus.ErrorCode(err) == nimbus.CodeNotFound {
			return nil
		}
		if err != nil {
			return err
		}
		known, over = true, a.State == AttemptEnded && r.Now().Sub(a.EndedAt) > runnerGone
		return nil
	})
	return known, over, err
}

// runnerGone is how long after its attempt a runner should be gone at GitHub.
const runnerGone = 10 * time.Minute

// keysOf are the rows that an event of ours is about.
func keysOf(ev *nimbus.ForgeEvent) Keys {
	keys := Keys{GitHubJobs: []int64{ev.Job.JobID}, Repos: []string{repoName(ev)}}
	if id := attemptOfRunner(ev.RunnerName); id != "" {
		keys.Attempts = []string{id}
	}
	return keys
}
