package scheduler

import (
	"context"
	"slices"

	"github.com/nimbus-ci/nimbus"
)

// limits are the concurrency limits of the orgs that take part in a promotion.
// A job takes a place of each that applies to it when it is queued, and gives
// it back when it ends or has to wait for another reason.
type limits struct {
	byOrg map[string][]*Limit
	taken map[string]int // by limit id
}

func (u *unit) loadLimits(ctx context.Context, waiting []Waiting) (*limits, error) {
	l := &limits{byOrg: map[string][]*Limit{}, taken: map[string]int{}}
	var orgs []string
	for _, w := range waiting {
		orgs = append(orgs, w.OrgID)
	}
	slices.Sort(orgs)
	all, err := u.Limits(ctx, slices.Compact(orgs))
	for i := range all {
		l.byOrg[all[i].OrgID] = append(l.byOrg[all[i].OrgID], &all[i])
	}
	return l, err
}

// room tells whether every limit of a job has a place left.
func (l *limits) room(j *JobRecord) bool {
	for _, limit := range l.byOrg[j.OrgID] {
		if limit.Counts(&j.Job) && limit.Used >= limit.Most {
			return false
		}
	}
	return true
}

// take takes a place of every limit of a job.
func (l *limits) take(j *JobRecord) {
	for _, limit := range l.byOrg[j.OrgID] {
		if limit.Counts(&j.Job) {
			limit.Used++
			l.taken[limit.ID]++
			j.LimitKeys = append(j.LimitKeys, limit.ID)
		}
	}
}

func (u *unit) saveLimits(ctx context.Context, l *limits) error {
	for id, n := range l.taken {
		if err := u.UseLimit(ctx, id, n); err != nil {
			return err
		}
	}
	return nil
}

// giveBack is for a job that leaves the queue or a host: it gives back its
// places, and is charged what it really took.
func (u *unit) giveBack(ctx context.Context, j *JobRecord, to nimbus.State) error {
	for _, id := range j.LimitKeys {
		if err := u.UseLimit(ctx, id, -1); err != nil {
			return err
		}
		u.released = true
	}
	j.LimitKeys = nil
	if to != nimbus.StateFinished {
		u.correct(j, nil)
		return nil
	}
	a, err := u.current(ctx, j)
	if err != nil {
		return err
	}
	u.correct(j, a)
	return nil
}
