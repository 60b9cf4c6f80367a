package scheduler

import (
	"context"

	"github.com/nimbus-ci/nimbus"
)

// MaxUsagesPerCall bounds how many attempts one call tells the use of.
const MaxUsagesPerCall = 64

// ReportUsage keeps what attempts have used so far. What is told of a lease that
// is over, or another host's, has no effect: the heartbeat says so to who holds
// it. Codes: invalid, too_large.
func (s *Service) ReportUsage(ctx context.Context, usages []AttemptUsage) error {
	if len(usages) > MaxUsagesPerCall {
		return nimbus.Errorf(nimbus.CodeTooLarge, "the use of at most %d attempts is told at once", MaxUsagesPerCall)
	}
	for _, u := range usages {
		if err := u.Series.Check(); err != nil {
			return err
		}
	}
	if len(usages) == 0 {
		return nil
	}
	return s.update(ctx, func(u *unit) error { return u.SaveLiveUsage(ctx, usages) })
}

// Usage is what an attempt of a job used, "" for its current or last one. Codes:
// not_found, also across orgs.
func (s *Service) Usage(ctx context.Context, orgID, jobID, attemptID string) (u JobUsage, err error) {
	if err := nimbus.CheckID(nimbus.PrefixJob, jobID); err != nil {
		return u, err
	}
	if attemptID != "" {
		if err := nimbus.CheckID(nimbus.PrefixAttempt, attemptID); err != nil {
			return u, err
		}
	}
	err = s.store.View(ctx, func(r Reader) error {
		u, err = r.Usage(ctx, orgID, jobID, attemptID)
		return err
	})
	return u, err
}
