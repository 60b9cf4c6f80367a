package scheduler

import (
	"context"
	"strconv"

	"github.com/nimbus-ci/nimbus"
)

// CordonHost keeps a host from new jobs, or no longer. What runs on it goes on,
// and an offer that was made before may still be accepted; other replicas heed
// it within fleetFresh. Codes: not_found.
func (s *Service) CordonHost(ctx context.Context, p nimbus.Principal, hostID string, cordoned bool) error {
	err := s.update(ctx, func(u *unit) error {
		if err := u.CordonHost(ctx, hostID, cordoned); err != nil {
			return err
		}
		action := "host.cordon"
		if !cordoned {
			action = "host.uncordon"
		}
		if err := u.Audit(ctx, nimbus.AuditEvent{Actor: p.Actor(), Action: action, Target: hostID, Outcome: nimbus.AuditAllowed}); err != nil {
			return err
		}
		return u.reviewHosts(ctx)
	})
	if err == nil {
		s.log.InfoContext(ctx, "host cordoned", "host", hostID, "cordoned", cordoned, "by", p.Subject)
	}
	return err
}

// RemoveHost takes a host away for good: it is nobody any more, and its token
// works no longer. A host that holds offers or leases is refused, unless force
// is set: then no heartbeat renews them, its shims kill what runs, and the jobs
// go the way of every lost lease. Codes: not_found, conflict.
func (s *Service) RemoveHost(ctx context.Context, p nimbus.Principal, hostID string, force bool) error {
	err := s.update(ctx, func(u *unit) error {
		if _, err := u.Host(ctx, hostID); err != nil {
			return err
		}
		open, err := u.OpenAttempts(ctx, []string{hostID})
		if err != nil {
			return err
		}
		if len(open) > 0 && !force {
			return nimbus.Errorf(nimbus.CodeConflict, "the host has %s", countJobs(len(open))).
				WithHint("`nimbus hosts drain %s` waits for them, --force gives them up", hostID)
		}
		if err := u.RemoveHost(ctx, hostID); err != nil {
			return err
		}
		if err := u.Audit(ctx, nimbus.AuditEvent{Actor: p.Actor(), Action: "host.remove", Target: hostID, Outcome: nimbus.AuditAllowed,
			Detail: map[string]string{"jobs_given_up": strconv.Itoa(len(open))}}); err != nil {
			return err
		}
		return u.reviewHosts(ctx)
	})
	if err == nil {
		s.log.InfoContext(ctx, "host removed", "host", hostID, "forced", force, "by", p.Subject)
	}
	return err
}

// reviewHosts has this replica know of a change to hosts at once, and puts the
// jobs that wait in step with it.
func (u *unit) reviewHosts(ctx context.Context) error {
	if err := u.fleet.refresh(ctx, u, 0); err != nil {
		return err
	}
	return u.review(ctx)
}
