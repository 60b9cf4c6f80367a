package scheduler

import (
	"context"
	"fmt"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Times of a job of GitHub's that no attempt got to begin.
const (
	// heldFirst is when it is tried anew for the first time where its org wants
	// that; then after twice that, and so on, up to heldMost.
	heldFirst, heldMost = 5 * time.Minute, time.Hour
	// heldRecheck is how often GitHub is asked whether it holds the job at all.
	heldRecheck = 15 * time.Minute
)

// held tells whether every attempt of a job of GitHub's ended before it began.
// GitHub holds such a job queued for a day, and runs nothing again meanwhile: it
// stays open, and no host is offered it before it is tried anew.
func (j *JobRecord) held() bool {
	return j.State == nimbus.StateUnschedulable && j.Reason.Code == nimbus.ReasonAttemptsUsed
}

func (u *unit) hold(ctx context.Context, j *JobRecord, used nimbus.Reason, actor string) error {
	tries, err := u.TriesAnew(ctx, j.ID)
	if err != nil {
		return err
	}
	j.CheckAt, j.Checks = u.now.Add(min(heldFirst<<min(tries, 10), heldMost)), 0
	if err := u.move(ctx, j, Move{To: nimbus.StateUnschedulable, Reason: used, Actor: actor}); err != nil {
		return err
	}
	u.promoteLater(j.Class)
	return nil
}

// stillHeld is for a held job of which GitHub says that it is queued. It is
// tried anew where its org has lost jobs run again, as often as it lets a run.
func (u *unit) stillHeld(ctx context.Context, j *JobRecord) error {
	policy, err := u.LockRerunPolicy(ctx, j.OrgID)
	if err != nil {
		return err
	}
	tries, err := u.TriesAnew(ctx, j.ID)
	if err != nil {
		return err
	}
	inHour, _, err := u.CountReruns(ctx, j.OrgID, u.now.Add(-time.Hour))
	if err != nil {
		return err
	}
	if !policy.On() || tries >= policy.PerRun || inHour >= policy.PerHour {
		return u.checkAgain(ctx, j, heldRecheck)
	}
	if err := u.InsertTryAnew(ctx, j.OrgID, j.ID, tries+1); err != nil {
		return err
	}
	if err := u.note(ctx, j, kindRerun, j.AttemptID, actorSystem, fmt.Sprintf("tried anew, %d of %d times", tries+1, policy.PerRun)); err != nil {
		return err
	}
	j.AttemptCount = 0
	return u.backInLine(ctx, j, actorSystem, "tried anew")
}

// tryAnew has a held job wait for a host again, because somebody wants it.
func (s *Service) tryAnew(ctx context.Context, p nimbus.Principal, jobID string) (job nimbus.Job, err error) {
	err = s.update(ctx, func(u *unit) error {
		j, err := u.LockJob(ctx, jobID)
		if err != nil {
			return err
		}
		if !j.held() {
			return nimbus.Errorf(nimbus.CodeConflict, "the job went on meanwhile")
		}
		if err := u.note(ctx, j, kindRerun, j.AttemptID, p.Actor(), "tried anew"); err != nil {
			return err
		}
		j.AttemptCount = 0
		if err := u.backInLine(ctx, j, p.Actor(), "tried anew"); err != nil {
			return err
		}
		err = u.Audit(ctx, nimbus.AuditEvent{OrgID: j.OrgID, Actor: p.Actor(), Action: "job.rerun", Target: j.ID, Outcome: nimbus.AuditAllowed,
			Detail: map[string]string{"at": "nimbus"}})
		job = j.Job
		return err
	})
	return job, err
}

// heldSays is what the person who pushed should know of how a held job goes on.
func (u *unit) heldSays(ctx context.Context, j *JobRecord) (string, error) {
	policy, err := u.RerunPolicy(ctx, j.OrgID)
	if err != nil {
		return "", err
	}
	tries, err := u.TriesAnew(ctx, j.ID)
	says := "GitHub holds it queued, for a day, and can't re-run it meanwhile: “Run again” on its page at Nimbus tries it anew."
	if err == nil && policy.On() && tries < policy.PerRun {
		says = "Nimbus tries it anew by itself. " + says
	}
	return says, err
}
