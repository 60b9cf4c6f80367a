package scheduler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nimbus-ci/nimbus"
)

// ProcessDelivery records a webhook in the ledger and does what it asks for,
// in one transaction: what is in the ledger was done, and a delivery seen
// before is a duplicate without effect. ev is nil for an event that means
// nothing to Nimbus; it is recorded too. Events of one job may come late,
// twice and in any order: GitHub's status of a job only moves forward.
func (s *Service) ProcessDelivery(ctx context.Context, d nimbus.Delivery, ev *nimbus.ForgeEvent) (nimbus.DeliveryOutcome, error) {
	if d.ID == "" {
		return "", nimbus.Errorf(nimbus.CodeInvalid, "the delivery has no id")
	}
	var outcome nimbus.DeliveryOutcome
	var keys Keys
	if ev != nil && isOurs(ev) {
		keys = keysOf(ev)
	}
	keys.Deliveries = []string{d.ID}
	err := s.gather.do(ctx, keys, func(ctx context.Context, u *unit) error {
		isNew, err := u.InsertDelivery(ctx, d)
		if err != nil {
			return fmt.Errorf("write the ledger: %w", err)
		}
		if !isNew {
			outcome = nimbus.DeliveryDuplicate
			return nil
		}
		outcome = nimbus.DeliveryIgnored
		if ev != nil && isOurs(ev) {
			outcome = nimbus.DeliveryAccepted
			if err := u.event(ctx, d, ev); err != nil {
				return fmt.Errorf("workflow job %d is %s: %w", ev.Job.JobID, ev.Status, err)
			}
		}
		return u.SetDeliveryOutcome(ctx, d.ID, outcome)
	})
	if err == nil && s.cfg.Observer != nil {
		s.cfg.Observer.Delivered(outcome)
	}
	return outcome, err
}

// isOurs tells whether an event is about a job that asks for Nimbus, or that a
// runner of ours has.
func isOurs(ev *nimbus.ForgeEvent) bool {
	own := slices.ContainsFunc(ev.Labels, func(l string) bool { return strings.EqualFold(l, nimbus.OwnLabel) })
	return own || attemptOfRunner(ev.RunnerName) != ""
}

// attemptOfRunner is the attempt that a runner's name is of, "" when the
// runner is somebody else's.
func attemptOfRunner(name string) string {
	id, ok := strings.CutPrefix(name, nimbus.RunnerName(""))
	if !ok || nimbus.CheckID(nimbus.PrefixAttempt, id) != nil {
		return ""
	}
	return id
}

// event does what an event of GitHub asks for.
func (u *unit) event(ctx context.Context, d nimbus.Delivery, ev *nimbus.ForgeEvent) error {
	if ev.Status == nimbus.ForgeQueued && !ev.Demand {
		return nil // not the event that asks for a runner: that one is still to come
	}
	forward, err := u.AdvanceForgeJob(ctx, ev)
	if err != nil || !forward {
		return err
	}
	if ev.Status == nimbus.ForgeQueued {
		return u.demand(ctx, d, ev)
	}
	p, err := u.lockParties(ctx, ev)
	if err != nil {
		return err
	}
	return u.apply(ctx, d, ev, p)
}

// demand admits a job that GitHub wants a runner for.
func (u *unit) demand(ctx context.Context, d nimbus.Delivery, ev *nimbus.ForgeEvent) error {
	switch _, err := u.JobByGitHub(ctx, ev.Job.JobID); nimbus.ErrorCode(err) {
	case nimbus.CodeNotFound:
	case "":
		return nil // one job of ours for one of GitHub's
	default:
		return err
	}
	j, refused, err := u.newGitHub(ctx, d, ev)
	if err != nil {
		return err
	}
	age := u.now.Sub(ev.CreatedAt)
	stale := refused == nil && !ev.CreatedAt.IsZero() && age > u.cfg.StaleAfter
	if stale {
		refused = &nimbus.Reason{Code: nimbus.ReasonForge, Message: fmt.Sprintf(
			"GitHub's event is %d minutes old: it is asked whether the job still waits", int(age.Minutes()))}
	}
	if err := u.admit(ctx, j, refused, actorGitHub); err != nil || !stale {
		return err
	}
	j.CheckAt = u.now
	return u.SaveJob(ctx, j)
}

// newGitHub makes a job of an event. refused is why its labels can't be served.
func (u *unit) newGitHub(ctx context.Context, d nimbus.Delivery, ev *nimbus.ForgeEvent) (j *JobRecord, refused *nimbus.Reason, err error) {
	asked, err := nimbus.ParseLabels(ev.Labels)
	if wrong := (*nimbus.LabelError)(nil); errors.As(err, &wrong) {
		refused = &wrong.Reason
		asked, err = nimbus.ParseLabels(nil) // the defaults, for the books
	}
	if err != nil {
		return nil, nil, err
	}
	repo := repoName(ev)
	repoID, orgID, err := u.Repo(ctx, repo)
	if err != nil {
		return nil, nil, err
	}
	return &JobRecord{
		Job: nimbus.Job{OrgID: orgID, Source: nimbus.SourceGitHub, Name: clip(ev.Name), Repo: repo, Labels: ev.Labels,
			Class: asked.Class, Metadata: asked.Metadata, GitHub: ev.Job, Timeline: nimbus.Timeline{ReceivedAt: d.ReceivedAt}},
		RepoID: repoID, AnyExecutor: asked.Class.Executor == "",
	}, refused, nil
}

func repoName(ev *nimbus.ForgeEvent) string { return ev.Job.Owner + "/" + ev.Job.Repo }

// parties are whom an event about a job concerns, all locked.
type parties struct {
	job     *JobRecord // of the event; nil when there is none in the books
	attempt *Attempt   // whose runner has the job; nil when that isn't ours
	holder  *JobRecord // whose attempt that is in the books; may be job
}

// lockParties locks in the order of ids, so that two events about the same
// jobs can't wait for each other.
func (u *unit) lockParties(ctx context.Context, ev *nimbus.ForgeEvent) (parties, error) {
	var p parties
	jobID, err := u.JobByGitHub(ctx, ev.Job.JobID)
	if err != nil && nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		return p, err
	}
	if id := attemptOfRunner(ev.RunnerName); id != "" {
		p.attempt, err = u.Attempt(ctx, id)
		if err != nil && nimbus.ErrorCode(err) != nimbus.CodeNotFound {
			return p, err
		}
	}
	locked := map[string]*JobRecord{}
	ids := []string{jobID}
	if p.attempt != nil {
		ids = append(ids, p.attempt.JobID)
	}
	slices.Sort(ids)
	for _, id := range slices.Compact(ids) {
		if id == "" {
			continue
		}
		if locked[id], err = u.LockJob(ctx, id); err != nil {
			return p, err
		}
	}
	p.job = locked[jobID]
	if p.attempt == nil {
		return p, nil
	}
	holder := p.attempt.JobID
	if p.attempt, err = u.Attempt(ctx, p.attempt.AttemptID); err != nil {
		return p, err
	}
	if p.attempt.JobID != holder {
		return p, fmt.Errorf("attempt %s was given to another job: %w", p.attempt.AttemptID, ErrRace)
	}
	p.holder = locked[holder]
	return p, nil
}
