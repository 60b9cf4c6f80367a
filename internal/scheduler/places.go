package scheduler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nimbus-ci/nimbus"
)

const (
	placesInterval = 5 * time.Second
	placesBatch    = 100 // orgs; the next look goes on
	placesFlows    = 64  // of an org in a class
	// placeKept is for how long a queued job that can't start keeps its places
	// of limits from one that could. Short enough for those who wait, and long
	// enough that a host which is between two jobs changes nothing.
	placeKept = 10 * time.Second
)

// places looks after limits that are full. A job takes its places when it is
// queued; one that no host takes then, because all that could are busy or
// GitHub's budget is used up, would keep them from jobs of its org for which
// there is room.
type places struct{ after string }

func (p *places) next(ctx context.Context, s *Service) error {
	var orgs []string
	err := s.store.View(ctx, func(r Reader) (err error) {
		orgs, err = r.FullLimits(ctx, p.after, placesBatch)
		return err
	})
	if err != nil {
		return fmt.Errorf("look for limits that are full: %w", err)
	}
	p.after = ""
	if len(orgs) == placesBatch {
		p.after = orgs[len(orgs)-1]
	}
	var errs []error
	for _, id := range orgs {
		if err := s.update(ctx, func(u *unit) error { return u.passPlacesOn(ctx, id) }); err != nil {
			errs = append(errs, fmt.Errorf("org %s: %w", id, err))
		}
	}
	return errors.Join(errs...)
}

// passPlacesOn moves jobs of an org that can't start from the queue back to the
// backlog, as many as have the places that others need which can.
func (u *unit) passPlacesOn(ctx context.Context, orgID string) error {
	queued, err := u.QueuedOf(ctx, orgID, maxRankedAnew)
	if err != nil {
		return err
	}
	if err := u.fleet.refresh(ctx, u, fleetFresh); err != nil {
		return err
	}
	slices.Reverse(queued) // who would be last goes first
	idle := slices.DeleteFunc(queued, func(j *JobRecord) bool {
		return len(j.LimitKeys) == 0 || u.now.Sub(j.Timeline.QueuedAt) < placeKept ||
			u.budgetWait(j) == 0 && u.fleet.roomNow(j.Class, u.now, 1) > 0
	})
	if len(idle) == 0 {
		return nil
	}
	l, err := u.loadLimits(ctx, []Waiting{{Flow: Flow{OrgID: orgID}}})
	if err != nil {
		return err
	}
	classes, err := u.WaitingClasses(ctx)
	if err != nil {
		return err
	}
	for _, class := range classes {
		if idle, err = u.passPlacesTo(ctx, orgID, class, l, idle); err != nil {
			return err
		}
	}
	return nil
}

// passPlacesTo passes places on to jobs of one class, and returns the idle jobs
// that have theirs still.
func (u *unit) passPlacesTo(ctx context.Context, orgID string, class nimbus.Class, l *limits, idle []*JobRecord) ([]*JobRecord, error) {
	id := class.ID()
	head, err := u.QueueHead(ctx, id)
	if err != nil {
		return idle, err
	}
	for _, j := range idle {
		if j.Class.ID() == id {
			head.Length--
		}
	}
	room := u.fleet.roomNow(class, u.now, head.Length+len(idle)) - head.Length
	if room <= 0 {
		return idle, nil
	}
	first, err := u.FirstPending(ctx, orgID, id, placesFlows)
	if err != nil {
		return idle, err
	}
	all := len(idle)
	for _, jobID := range first {
		j, err := u.JobRecord(ctx, jobID)
		if err != nil {
			return idle, err
		}
		if u.budgetWait(j) > 0 || room == 0 {
			continue
		}
		for range room { // as if those behind it were like it
			leave := l.makeRoom(j, idle)
			if len(leave) == 0 {
				break
			}
			l.passOn(leave, j)
			for _, q := range leave {
				if err := u.leaveQueue(ctx, q); err != nil {
					return idle, err
				}
			}
			idle = slices.DeleteFunc(idle, func(q *JobRecord) bool { return slices.Contains(leave, q) })
			room--
		}
	}
	if len(idle) < all {
		u.promoteFirst = append(u.promoteFirst, class)
	}
	return idle, nil
}

// leaveQueue puts a queued job back into the backlog, where it is the first of
// its flow.
func (u *unit) leaveQueue(ctx context.Context, j *JobRecord) error {
	return u.move(ctx, j, Move{To: nimbus.StatePending, Reason: j.Reason, Actor: actorSystem,
		Detail: "it could not start, and gave its place of a limit to a job that can"})
}
