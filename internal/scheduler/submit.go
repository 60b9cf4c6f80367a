package scheduler

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// maxNameBytes is where a job's name is cut.
const maxNameBytes = 200

// Submit admits a native job to the caller's org, the administrator's to the
// default one. Repeating it with the same idempotency key returns the job of
// the first call; keys are each org's own. Codes: invalid, too_large, conflict
// for a key that was used for something else.
func (s *Service) Submit(ctx context.Context, p nimbus.Principal, sub Submission) (nimbus.Job, error) {
	j, err := s.newNative(p, sub)
	if err != nil {
		return nimbus.Job{}, err
	}
	return s.submit(ctx, p, *j)
}

func (s *Service) submit(ctx context.Context, p nimbus.Principal, template JobRecord) (nimbus.Job, error) {
	var job nimbus.Job
	err := s.gather.do(ctx, Keys{}, func(ctx context.Context, u *unit) error {
		j := template
		id, err := u.JobByIdempotencyKey(ctx, j.OrgID, j.IdempotencyKey)
		switch {
		case err == nil:
			if job, err = u.Job(ctx, j.OrgID, id); err != nil {
				return err
			}
			return u.sameSubmission(ctx, id, &j)
		case nimbus.ErrorCode(err) != nimbus.CodeNotFound:
			return err
		}
		if err := u.admit(ctx, &j, nil, p.Actor()); err != nil {
			return err
		}
		if err := u.noteRerun(ctx, &j, p.Actor()); err != nil {
			return err
		}
		u.atEnd = func() error {
			now, err := u.JobRecord(ctx, j.ID)
			if err == nil {
				job = now.Job
			}
			return err
		}
		return nil
	})
	return job, err
}

// newNative checks a submission and makes a job of it.
func (s *Service) newNative(p nimbus.Principal, sub Submission) (*JobRecord, error) {
	if len(sub.IdempotencyKey) > MaxIdempotencyKeyBytes {
		return nil, errKeyTooLong()
	}
	if err := checkPriority(sub.Priority); err != nil {
		return nil, err
	}
	sum := sub.sum()
	if err := sub.Spec.Check(); err != nil {
		return nil, err
	}
	asked, err := sub.requirements()
	if err != nil {
		return nil, err
	}
	org := p.OrgID
	if org == "" {
		org = nimbus.DefaultOrgID
	}
	name := sub.Name
	if name == "" {
		name = strings.Join(sub.Spec.Command, " ")
	}
	if sub.Spec.Timeout == 0 {
		sub.Spec.Timeout = nimbus.DefaultTimeout
	}
	return &JobRecord{
		Job: nimbus.Job{OrgID: org, Source: nimbus.SourceNative, Name: clip(name), Class: asked.Class, Spec: sub.Spec,
			Labels: sub.Labels, Metadata: asked.Metadata, Priority: sub.Priority,
			Timeline: nimbus.Timeline{ReceivedAt: sub.ReceivedAt}},
		AnyExecutor: asked.Class.Executor == "", IdempotencyKey: sub.IdempotencyKey, IdempotentSum: sum,
	}, nil
}

// requirements are what a submission asks for by its labels, its class and its
// metadata together.
func (s Submission) requirements() (nimbus.Requirements, error) {
	if err := nimbus.CheckLabels(s.Labels); err != nil {
		return nimbus.Requirements{}, err
	}
	asked, err := nimbus.ParseLabels(s.Labels)
	if wrong := (*nimbus.LabelError)(nil); errors.As(err, &wrong) {
		return asked, nimbus.Errorf(nimbus.CodeInvalid, "%s", wrong.Reason.Message)
	}
	if err != nil {
		return asked, err
	}
	if asked.Class, err = s.Class.Or(asked.Class).Complete(); err != nil {
		return asked, err
	}
	if len(s.Metadata) > 0 {
		both := maps.Clone(s.Metadata)
		maps.Copy(both, asked.Metadata)
		asked.Metadata = both
	}
	return asked, nimbus.CheckMetadata(asked.Metadata)
}

// clip keeps the beginning of a text that a caller wrote.
func clip(s string) string {
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "")
	if len(s) > maxNameBytes {
		return strings.ToValidUTF8(s[:maxNameBytes-len("…")], "") + "…"
	}
	return s
}

// runTimeout is how long a job may run. GitHub keeps its own time, so that ours
// is only the bound of what it allows at all.
func runTimeout(j *JobRecord) time.Duration {
	if j.Source == nimbus.SourceGitHub || j.Spec.Timeout == 0 {
		return nimbus.MaxTimeout
	}
	return j.Spec.Timeout
}

// queueTimeout is how long a job may wait to be accepted.
func (c Config) queueTimeout(j *JobRecord) time.Duration {
	return cmp.Or(j.Spec.QueueTimeout, c.QueueTimeout)
}
