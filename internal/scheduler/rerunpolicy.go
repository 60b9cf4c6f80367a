package scheduler

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// rerunAtForge has GitHub run a job again, because somebody wants it. GitHub
// itself sees to it that two who do so at once begin one new attempt: it refuses
// while the run goes on.
func (s *Service) rerunAtForge(ctx context.Context, p nimbus.Principal, j *JobRecord) (nimbus.Job, error) {
	if s.reruns == nil {
		return nimbus.Job{}, nimbus.Errorf(nimbus.CodeUnsupported, "a workflow job is run again by GitHub alone").
			WithHint("use “Re-run failed jobs” on its page: %s", j.GitHub.HTMLURL)
	}
	asking, cancel := context.WithTimeout(ctx, forgeTimeout)
	defer cancel()
	if err := s.reruns.RerunJob(asking, j.GitHub); err != nil {
		return nimbus.Job{}, fmt.Errorf("have GitHub run it again: %w", err)
	}
	var job nimbus.Job
	err := s.update(ctx, func(u *unit) error {
		old, err := u.LockJob(ctx, j.ID)
		if err != nil {
			return err
		}
		if err := u.note(ctx, old, kindRerun, old.AttemptID, p.Actor(), "at GitHub"); err != nil {
			return err
		}
		if job, err = u.Job(ctx, old.OrgID, old.ID); err != nil {
			return err
		}
		return u.Audit(ctx, nimbus.AuditEvent{OrgID: old.OrgID, Actor: p.Actor(), Action: "job.rerun", Target: old.ID, Outcome: nimbus.AuditAllowed,
			Detail: map[string]string{"at": "github"}})
	})
	return job, err
}

// RerunPolicy is what an org lets Nimbus have run again by itself, and what was.
func (s *Service) RerunPolicy(ctx context.Context, orgID string) (use nimbus.RerunUse, err error) {
	err = s.store.View(ctx, func(r Reader) (err error) {
		if use.RerunPolicy, err = r.RerunPolicy(ctx, orgID); err != nil {
			return err
		}
		use.LastHour, use.Waiting, err = r.CountReruns(ctx, orgID, r.Now().Add(-time.Hour))
		return err
	})
	return use, err
}

// SetRerunPolicy sets it, for what is lost from then on. Codes: invalid.
func (s *Service) SetRerunPolicy(ctx context.Context, p nimbus.Principal, orgID string, policy nimbus.RerunPolicy) error {
	if err := policy.Check(); err != nil {
		return err
	}
	return s.update(ctx, func(u *unit) error {
		if err := u.SetRerunPolicy(ctx, orgID, policy); err != nil {
			return err
		}
		return u.Audit(ctx, nimbus.AuditEvent{OrgID: orgID, Actor: p.Actor(), Action: "rerun_policy.set", Target: orgID, Outcome: nimbus.AuditAllowed,
			Detail: map[string]string{"per_run": strconv.Itoa(policy.PerRun), "per_hour": strconv.Itoa(policy.PerHour)}})
	})
}
