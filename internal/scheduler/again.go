package scheduler

import (
	"context"
	"fmt"
	"strconv"

	"github.com/nimbus-ci/nimbus"
)

// The history's words for what people do to jobs besides cancelling them.
const (
	kindPriority = "priority"
	kindRerun    = "rerun"
)

// Rerun runs a job again that has ended. Of a native one it makes a new job with
// the same specification, which names the old one. A job of GitHub's is begun
// anew by GitHub, which is asked to; then the old job is returned, and the new
// one comes as any does; one that GitHub still holds since no attempt got it to
// begin is tried anew as it is. A job that nothing could run is looked at anew:
// what was in the way may be gone. Codes: not_found, conflict, and those of Forge.
func (s *Service) Rerun(ctx context.Context, p nimbus.Principal, orgID, jobID, key string) (nimbus.Job, error) {
	if len(key) > MaxIdempotencyKeyBytes {
		return nimbus.Job{}, errKeyTooLong()
	}
	if err := nimbus.CheckID(nimbus.PrefixJob, jobID); err != nil {
		return nimbus.Job{}, err
	}
	var old *JobRecord
	err := s.store.View(ctx, func(r Reader) (err error) {
		if _, err := r.Job(ctx, orgID, jobID); err != nil {
			return err
		}
		old, err = r.JobRecord(ctx, jobID)
		return err
	})
	switch {
	case err != nil:
		return nimbus.Job{}, err
	case old.held():
		return s.tryAnew(ctx, p, old.ID)
	case old.State == nimbus.StateUnschedulable:
		return s.placeAnew(ctx, p, old.ID)
	case old.State != nimbus.StateFinished:
		return nimbus.Job{}, nimbus.Errorf(nimbus.CodeConflict, "the job has not ended yet").WithHint("`nimbus cancel %s` ends it", jobID)
	case old.Source != nimbus.SourceNative:
		return s.rerunAtForge(ctx, p, old)
	}
	return s.submit(ctx, p, JobRecord{
		Job: nimbus.Job{OrgID: old.OrgID, Source: nimbus.SourceNative, Name: old.Name, Class: old.Class, Spec: old.Spec, Labels: old.Labels,
			Metadata: old.Metadata, Priority: old.Priority, RerunOf: old.ID},
		AnyExecutor: old.AnyExecutor, IdempotencyKey: key, IdempotentSum: sumOf("rerun", old.ID),
	})
}

// placeAnew has an unschedulable job wait for a host where something can run it
// by now. Codes: conflict where nothing can; the job then has the reason of now.
func (s *Service) placeAnew(ctx context.Context, p nimbus.Principal, jobID string) (job nimbus.Job, err error) {
	var still nimbus.Reason
	err = s.update(ctx, func(u *unit) error {
		still = nimbus.Reason{}
		j, err := u.LockJob(ctx, jobID)
		if err != nil {
			return err
		}
		if j.State != nimbus.StateUnschedulable || j.held() {
			return nimbus.Errorf(nimbus.CodeConflict, "the job went on meanwhile")
		}
		if meaningless(j.Reason) {
			still = j.Reason
			return nil
		}
		if err := u.backInLine(ctx, j, p.Actor(), "looked at anew"); err != nil {
			return err
		}
		if job = j.Job; j.State == nimbus.StateUnschedulable {
			still = j.Reason // of now, which is kept
			return nil
		}
		return u.Audit(ctx, nimbus.AuditEvent{OrgID: j.OrgID, Actor: p.Actor(), Action: "job.rerun", Target: j.ID, Outcome: nimbus.AuditAllowed,
			Detail: map[string]string{"at": "nimbus"}})
	})
	switch {
	case err != nil:
		return nimbus.Job{}, err
	case meaningless(still):
		return nimbus.Job{}, nimbus.Errorf(nimbus.CodeConflict, "its labels are what they were, and nothing can ever run them").
			WithHint("change runs-on, push that, and cancel this run; `nimbus job %s` says what is wrong with them", jobID)
	case still.Code != "":
		return nimbus.Job{}, nimbus.Errorf(nimbus.CodeConflict, "nothing can run it yet").WithHint("`nimbus job %s` says why; `nimbus cancel %s` ends it", jobID, jobID)
	}
	return job, nil
}

// meaningless tells whether labels are why a job can't run, whatever the hosts.
func meaningless(r nimbus.Reason) bool {
	return r.Code == nimbus.ReasonUnknownLabel || r.Code == nimbus.ReasonContradiction
}

// noteRerun writes into the history of a job, and into the audit ledger, that it
// is run again.
func (u *unit) noteRerun(ctx context.Context, j *JobRecord, actor string) error {
	if j.RerunOf == "" {
		return nil
	}
	old, err := u.LockJob(ctx, j.RerunOf)
	if err != nil {
		return fmt.Errorf("note that it is run again: %w", err)
	}
	err = u.Audit(ctx, nimbus.AuditEvent{OrgID: old.OrgID, Actor: actor, Action: "job.rerun", Target: old.ID, Outcome: nimbus.AuditAllowed,
		Detail: map[string]string{"as": j.ID}})
	if err != nil {
		return err
	}
	return u.note(ctx, old, kindRerun, "", actor, "as "+j.ID)
}

// SetPriority moves a waiting job before or behind others of its org. One that
// is in the backlog moves at once. One that hosts can claim already keeps its
// rank, which its org was charged for: it is among the next anyway, and with a
// new rank it could only fall behind. Codes: not_found, invalid, conflict for a
// job that waits no more.
func (s *Service) SetPriority(ctx context.Context, p nimbus.Principal, orgID, jobID string, priority int) (nimbus.Job, error) {
	if err := checkPriority(priority); err != nil {
		return nimbus.Job{}, err
	}
	if err := nimbus.CheckID(nimbus.PrefixJob, jobID); err != nil {
		return nimbus.Job{}, err
	}
	var job nimbus.Job
	err := s.update(ctx, func(u *unit) error {
		if _, err := u.Job(ctx, orgID, jobID); err != nil {
			return err // not found in this org
		}
		j, err := u.LockJob(ctx, jobID)
		if err != nil {
			return err
		}
		if err := u.setPriority(ctx, j, priority, p.Actor()); err != nil {
			return err
		}
		job, err = u.Job(ctx, orgID, jobID)
		return err
	})
	return job, err
}

func (u *unit) setPriority(ctx context.Context, j *JobRecord, priority int, actor string) error {
	switch j.State {
	case nimbus.StatePending, nimbus.StateQueued, nimbus.StateUnschedulable:
	default:
		return nimbus.Errorf(nimbus.CodeConflict, "the job is %s: it waits no more", j.State)
	}
	if j.Priority == priority {
		return nil
	}
	err := u.Audit(ctx, nimbus.AuditEvent{OrgID: j.OrgID, Actor: actor, Action: "job.priority", Target: j.ID, Outcome: nimbus.AuditAllowed,
		Detail: map[string]string{"from": strconv.Itoa(j.Priority), "to": strconv.Itoa(priority)}})
	if err != nil {
		return err
	}
	detail := fmt.Sprintf("from %d to %d", j.Priority, priority)
	if j.State == nimbus.StateQueued {
		detail += ", it keeps its place"
	}
	j.Priority = priority
	if err := u.SaveJob(ctx, j); err != nil {
		return err
	}
	u.promoteLater(j.Class)
	return u.note(ctx, j, kindPriority, "", actor, detail)
}

func checkPriority(priority int) error {
	if priority < nimbus.MinPriority || priority > nimbus.MaxPriority {
		return nimbus.Errorf(nimbus.CodeInvalid, "a priority is %d to %d, not %d", nimbus.MinPriority, nimbus.MaxPriority, priority)
	}
	return nil
}
