package scheduler

import (
	"context"

	"github.com/nimbus-ci/nimbus"
)

// reviewBatch bounds how many jobs of a class one review moves; the next goes
// on with the rest.
const reviewBatch = 200

// review puts the jobs that wait in step with the hosts that there are: back
// to pending where a host can serve them now, unschedulable where none can.
func (u *unit) review(ctx context.Context) error {
	classes, err := u.WaitingClasses(ctx)
	if err != nil {
		return err
	}
	if len(classes) == 0 {
		return nil
	}
	if err := u.fleet.refresh(ctx, u, 0); err != nil {
		return err
	}
	for _, class := range classes {
		if err := u.reviewClass(ctx, class); err != nil {
			return err
		}
	}
	return nil
}

func (u *unit) reviewClass(ctx context.Context, class nimbus.Class) error {
	ids, err := u.StuckJobs(ctx, class.ID(), nimbus.ReasonNoHost, reviewBatch)
	if err != nil {
		return err
	}
	if !u.fleet.anyServes(class, knownHost) {
		waiting, err := u.WaitingJobs(ctx, class.ID(), reviewBatch)
		if err != nil {
			return err
		}
		ids = append(ids, waiting...)
	}
	for _, id := range ids {
		j, err := u.LockJob(ctx, id)
		if err != nil {
			return err
		}
		if err := u.reviewJob(ctx, j); err != nil {
			return err
		}
	}
	u.promoteLater(class)
	return nil
}

func (u *unit) reviewJob(ctx context.Context, j *JobRecord) error {
	p := u.place(j)
	stuck := p.unschedulable
	if j.State == nimbus.StateQueued && !stuck && p.class != j.Class {
		// The executor is our choice, and has to be another one by now.
		if err := u.move(ctx, j, Move{To: nimbus.StateUnschedulable, Reason: nimbus.Reason{Code: nimbus.ReasonNoHost,
			Message: "no host can run " + j.Class.String()}, Actor: actorSystem}); err != nil {
			return err
		}
	}
	switch {
	case j.State == nimbus.StateUnschedulable && j.Reason.Code == nimbus.ReasonNoHost && !stuck:
		j.Class = p.class
		if err := u.move(ctx, j, Move{To: nimbus.StatePending, Reason: p.reason, Actor: actorSystem, Detail: "the hosts changed"}); err != nil {
			return err
		}
	case (j.State == nimbus.StatePending || j.State == nimbus.StateQueued) && stuck:
		return u.move(ctx, j, Move{To: nimbus.StateUnschedulable, Reason: p.reason, Actor: actorSystem})
	case j.Reason != p.reason && (j.State == nimbus.StatePending || j.State == nimbus.StateUnschedulable && j.Reason.Code == nimbus.ReasonNoHost),
		j.Class != p.class && j.State == nimbus.StatePending:
		j.Class, j.Reason = p.class, p.reason
		if err := u.SaveJob(ctx, j); err != nil {
			return err
		}
		u.changed(j)
	}
	if j.State == nimbus.StatePending {
		u.promoteLater(j.Class)
	}
	return nil
}
