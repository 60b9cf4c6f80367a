package scheduler

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/bus"
)

const (
	repairInterval = 15 * time.Second
	// repairBatch is how many unfinished jobs are looked at each time. They are
	// in an index of their own, so that history costs nothing.
	repairBatch = 2000
)

// kindPutBack is the history's word for a job that had fallen out of the queue.
const kindPutBack = "put_back"

// repairs looks at all unfinished jobs, some each time: one that is not where
// its state says would wait for ever. No transaction of ours leaves such a job
// behind; a restored backup or a hand in the database may.
type repairs struct{ after Cursor }

func (p *repairs) next(ctx context.Context, s *Service) error {
	var ids []string
	err := s.store.View(ctx, func(r Reader) (err error) {
		ids, p.after, err = r.Misplaced(ctx, p.after, repairBatch)
		return err
	})
	if err != nil {
		return fmt.Errorf("look for jobs that are nowhere: %w", err)
	}
	var errs []error
	for _, id := range ids {
		put := false
		err := s.update(ctx, func(u *unit) (err error) {
			put, err = u.putBack(ctx, id)
			return err
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("job %s: %w", id, err))
		} else if put {
			s.log.WarnContext(ctx, "a job was not where its state says, it is put back", "job", id)
		}
	}
	return errors.Join(errs...)
}

// putBack puts a job where its state says, if it is not there.
func (u *unit) putBack(ctx context.Context, jobID string) (bool, error) {
	j, err := u.LockJob(ctx, jobID)
	if err != nil {
		return false, err
	}
	put, err := u.PutBack(ctx, jobID)
	if err != nil || !put {
		return false, err
	}
	if j.State == nimbus.StateQueued {
		u.publish(bus.TopicQueue, "")
	}
	u.promoteLater(j.Class)
	return true, u.note(ctx, j, kindPutBack, "", actorSystem, "it was not in the queue")
}
