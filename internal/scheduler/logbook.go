package scheduler

import (
	"context"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/bus"
)

// LogLease names the log that a lease may write: while it lives, and after its
// host told its end, since the last lines (and their acknowledgement) come
// later. Codes: fenced.
func (s *Service) LogLease(ctx context.Context, hostID string, l nimbus.Lease) (nimbus.LogKey, error) {
	var key nimbus.LogKey
	err := s.store.View(ctx, func(r Reader) error {
		a, err := r.Attempt(ctx, l.AttemptID)
		if nimbus.ErrorCode(err) == nimbus.CodeNotFound {
			return fenced(l)
		}
		if err != nil {
			return err
		}
		lives := a.State == AttemptLive && a.ExpiresAt.After(r.Now())
		shipping := a.State == AttemptEnded && a.Outcome != nil
		if a.HostID != hostID || a.Fence != l.Fence || !lives && !shipping {
			return fenced(l)
		}
		key = nimbus.LogKey{OrgID: a.OrgID, AttemptID: a.AttemptID}
		return nil
	})
	return key, err
}

// LogStored records that all lines up to lines are stored, and wakes those who
// follow the log.
func (s *Service) LogStored(ctx context.Context, key nimbus.LogKey, lines int64) error {
	jobID, complete, changed, err := s.store.LogStored(ctx, key, lines)
	if err != nil || !changed {
		return err
	}
	s.bus.Publish(ctx, bus.LogTopic(key.AttemptID), nil)
	if complete {
		s.bus.Publish(ctx, bus.JobsTopic(key.OrgID), []byte(jobID))
	}
	return nil
}
