package scheduler

import (
	"context"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// unboundCheck is when GitHub is asked which job a runner has, where its host says
// that it has one and no event came: usually one does within seconds.
const unboundCheck = 8 * time.Second

// BoundJob is the job that the attempt of a lease is proved to run: of GitHub's, the
// one that GitHub says its runner has. Codes: fenced, and conflict until it is
// proved; then GitHub is asked soon.
func (s *Service) BoundJob(ctx context.Context, hostID string, l nimbus.Lease) (nimbus.Job, error) {
	var job nimbus.Job
	bound := false
	err := s.gather.do(ctx, Keys{Attempts: []string{l.AttemptID}}, func(ctx context.Context, u *unit) error {
		j, a, err := u.lease(ctx, hostID, l)
		if err != nil {
			return err
		}
		if a.State != AttemptLive || !a.ExpiresAt.After(u.now) {
			return fenced(l)
		}
		job, bound = j.Job, j.State == nimbus.StateRunning && j.AttemptID == a.AttemptID && !a.RunningAt.IsZero()
		soon := u.now.Add(unboundCheck)
		if bound || j.State != nimbus.StateAccepted || j.AttemptID != a.AttemptID || a.Runner.ID == 0 || j.CheckAt.IsZero() || !j.CheckAt.After(soon) {
			return nil
		}
		j.CheckAt = soon
		return u.SaveJob(ctx, j)
	})
	if err == nil && !bound {
		err = nimbus.Errorf(nimbus.CodeConflict, "it is not proved yet which job the attempt %s runs", l.AttemptID)
	}
	if err != nil {
		return nimbus.Job{}, err
	}
	return job, nil
}
