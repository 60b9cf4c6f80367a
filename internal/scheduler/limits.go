package scheduler

import (
	"context"
	"slices"

	"github.com/nimbus-ci/nimbus"
)

// limits are the concurrency limits of the orgs that take part in a promotion.
// A job takes a place of each that applies to it when it is queued, and gives
// it back when it ends or has to wait for another reason.
//
// A job that GitHub's budget keeps takes none: it would keep them from jobs of
// its org that could start.
type limits struct {
	byOrg map[string][]*Limit
	taken map[string]int // by limit id
	kept  func(*JobRecord) bool
}

func (u *unit) loadLimits(ctx context.Context, waiting []Waiting) (*limits, error) {
	l := &limits{byOrg: map[string][]*Limit{}, taken: map[string]int{}, kept: func(j *JobRecord) bool { return u.budgetWait(j) > 0 }}
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

// room tells whether every limit of a job has a place left for it.
func (l *limits) room(j *JobRecord) bool {
	for _, limit := range l.byOrg[j.OrgID] {
		if limit.Counts(&j.Job) && (limit.Used >= limit.Most || l.kept(j)) {
			return false
		}
	}
	return true
}

// makeRoom are those of some queued jobs that would have to leave the queue, so
// that every limit of a pending one has a place; nil where that takes more.
func (l *limits) makeRoom(j *JobRecord, of []*JobRecord) (leave []*JobRecord) {
	freed := map[string]int{}
	for _, limit := range l.byOrg[j.OrgID] {
		for limit.Counts(&j.Job) && limit.Used-freed[limit.ID] >= limit.Most {
			i := slices.IndexFunc(of, func(q *JobRecord) bool {
				return !slices.Contains(leave, q) && slices.Contains(q.LimitKeys, limit.ID)
			})
			if i < 0 {
				return nil
			}
			leave = append(leave, of[i])
			for _, id := range of[i].LimitKeys {
				freed[id]++
			}
		}
	}
	return leave
}

// passOn counts the places of jobs that leave the queue to one that comes.
func (l *limits) passOn(leave []*JobRecord, to *JobRecord) {
	for _, limit := range l.byOrg[to.OrgID] {
		for _, j := range leave {
			if slices.Contains(j.LimitKeys, limit.ID) {
				limit.Used--
			}
		}
		if limit.Counts(&to.Job) {
			limit.Used++
		}
	}
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
