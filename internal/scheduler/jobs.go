package scheduler

import (
	"cmp"
	"context"
	"strconv"

	"github.com/nimbus-ci/nimbus"
)

// Job returns a job of an org. Codes: not_found, also across orgs.
func (s *Service) Job(ctx context.Context, orgID, jobID string) (nimbus.Job, error) {
	if err := nimbus.CheckID(nimbus.PrefixJob, jobID); err != nil {
		return nimbus.Job{}, err
	}
	var job nimbus.Job
	err := s.store.View(ctx, func(r Reader) (err error) {
		job, err = r.Job(ctx, orgID, jobID)
		return err
	})
	return job, err
}

// MaxFilters bounds by how many labels and pieces of metadata jobs are looked for.
const MaxFilters = 16

// Jobs lists the jobs of an org, newest first. Codes: invalid.
func (s *Service) Jobs(ctx context.Context, orgID string, f JobFilter) (JobPage, error) {
	size := pageSize(f.PageSize)
	if f.PageToken != "" { // the id of the last job of the page before
		if err := nimbus.CheckID(nimbus.PrefixJob, f.PageToken); err != nil {
			return JobPage{}, nimbus.Errorf(nimbus.CodeInvalid, "the page token is not one of ours")
		}
	}
	if len(f.Labels)+len(f.Metadata) > MaxFilters {
		return JobPage{}, nimbus.Errorf(nimbus.CodeInvalid, "jobs are looked for by at most %d labels and pieces of metadata", MaxFilters)
	}
	var page JobPage
	f.PageSize = size + 1
	err := s.store.View(ctx, func(r Reader) error {
		jobs, err := r.Jobs(ctx, orgID, f)
		if len(jobs) > size {
			jobs = jobs[:size]
			page.NextPageToken = jobs[size-1].ID
		}
		page.Jobs = jobs
		return err
	})
	return page, err
}

// EventPage returns a page of the history of a job, in order. A page follows the
// one that ended with after, and next is "" where none follows. Codes:
// not_found, invalid.
func (s *Service) EventPage(ctx context.Context, orgID, jobID string, size int, after string) (events []nimbus.JobEvent, next string, err error) {
	if err := nimbus.CheckID(nimbus.PrefixJob, jobID); err != nil {
		return nil, "", err
	}
	last, err := eventNumber(after)
	if err != nil {
		return nil, "", err
	}
	size = pageSize(cmp.Or(size, MaxPageSize))
	err = s.store.View(ctx, func(r Reader) (err error) {
		events, err = r.Events(ctx, orgID, jobID, last, size+1)
		return err
	})
	if len(events) > size {
		events = events[:size]
		next = strconv.FormatInt(events[size-1].Seq, 10)
	}
	return events, next, err
}

// eventNumber is the number of the event that a page ended with.
func eventNumber(token string) (int64, error) {
	if token == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(token, 10, 64)
	if err != nil || n < 1 {
		return 0, nimbus.Errorf(nimbus.CodeInvalid, "%q is not where a page of a job's history ends", clip(token)).
			WithHint("take nextPageToken of the page before, or none for the first")
	}
	return n, nil
}

// Cancel stops a job wherever it is: at once where no host has it, and else as
// soon as the host says so. A finished job is returned as it is. A GitHub job
// stays GitHub's: there, its runner is gone. Codes: not_found.
func (s *Service) Cancel(ctx context.Context, p nimbus.Principal, orgID, jobID string) (nimbus.Job, error) {
	if p.OrgID != "" && p.OrgID != orgID {
		return nimbus.Job{}, nimbus.Errorf(nimbus.CodeNotFound, "there is no such job")
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
		if j.State != nimbus.StateFinished && j.Stop.Result == "" {
			if err := u.Audit(ctx, nimbus.AuditEvent{OrgID: orgID, Actor: p.Actor(), Action: "job.cancel", Target: jobID, Outcome: nimbus.AuditAllowed}); err != nil {
				return err
			}
		}
		reason := nimbus.Reason{Code: nimbus.ReasonCancelledByUser, Message: "cancelled by " + p.Actor()}
		if err := u.stop(ctx, j, Ending{nimbus.ResultCancelled, reason}, p.Actor()); err != nil {
			return err
		}
		job, err = u.Job(ctx, orgID, jobID)
		return err
	})
	return job, err
}

// stop ends a job: at once where no sandbox of it can be alive, and else by
// asking its host, which has stopGrace to answer.
func (u *unit) stop(ctx context.Context, j *JobRecord, e Ending, actor string) error {
	if j.State == nimbus.StateFinished || j.Stop.Result != "" {
		return nil
	}
	a, err := u.current(ctx, j)
	if err != nil {
		return err
	}
	if a != nil && a.State == AttemptLive {
		j.Stop, j.DueAt = e, u.now.Add(stopGrace)
		if err := u.SaveJob(ctx, j); err != nil {
			return err
		}
		if err := u.release(ctx, a, u.now); err != nil {
			return err
		}
		return u.note(ctx, j, kindStopping, a.AttemptID, actor, e.Reason.Message)
	}
	if err := u.endOffer(ctx, a); err != nil {
		return err
	}
	if err := u.finish(ctx, j, e, actor); err != nil {
		return err
	}
	u.promoteLater(j.Class)
	return nil
}
