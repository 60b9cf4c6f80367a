package scheduler

import (
	"context"
	"slices"
	"strings"

	"github.com/nimbus-ci/nimbus"
)

// flowCost is what one job adds to the tag of its flow. A weight would divide it.
const flowCost = 1000

// promote fills the window of a class from its backlog, once half of it is
// empty. Which job is next is start-time fair queueing, over orgs and then over
// the repos of the org: a flow's next job starts at the flow's own finish tag,
// or at the virtual time when that is later, so that who was idle gets no
// credit for it. A class that no host serves is left alone.
func (u *unit) promote(ctx context.Context, class nimbus.Class) error {
	id := class.ID()
	length, err := u.QueueLength(ctx, id)
	if err != nil || length > u.cfg.Window/2 {
		return err
	}
	hosts, err := u.Hosts(ctx)
	if err != nil || !anyServes(hosts, class, u.presentHost) {
		return err
	}
	flows, err := u.BacklogFlows(ctx, id)
	if err != nil || len(flows) == 0 {
		return err
	}
	tags, err := u.loadTags(ctx, flows)
	if err != nil {
		return err
	}
	for length < u.cfg.Window && len(flows) > 0 {
		i := tags.next(flows)
		j, err := u.NextPending(ctx, id, flows[i])
		if err != nil {
			return err
		}
		if j == nil { // empty by now, or its jobs are in other hands
			flows = slices.Delete(flows, i, i+1)
			continue
		}
		j.Rank = tags.charge(flows[i])
		if err := u.move(ctx, j, Move{To: nimbus.StateQueued, Actor: actorSystem}); err != nil {
			return err
		}
		length++
	}
	return u.saveTags(ctx, tags)
}

// fairTags are the tags of the flows that take part in a promotion.
type fairTags struct {
	virtual int64
	orgs    map[string]FlowTag
	repos   map[Flow]FlowTag
	charged map[Flow]bool
}

// orgStart and repoStart are the start tags of the next job.
func (t fairTags) orgStart(orgID string) int64 { return max(t.virtual, t.orgs[orgID].Finish) }

func (t fairTags) repoStart(f Flow) int64 { return max(t.orgs[f.OrgID].Virtual, t.repos[f].Finish) }

// next is the index of the flow whose job is next: the one of the org that
// starts first, in it the one of the repo that starts first.
func (t fairTags) next(flows []Flow) int {
	best := 0
	for i, f := range flows {
		b := flows[best]
		org, bestOrg := t.orgStart(f.OrgID), t.orgStart(b.OrgID)
		switch {
		case org < bestOrg:
			best = i
		case org == bestOrg && f.OrgID == b.OrgID && t.repoStart(f) < t.repoStart(b):
			best = i
		}
	}
	return best
}

// charge counts a job to its flow and returns the job's rank.
func (t fairTags) charge(f Flow) int64 {
	rank, inner := t.orgStart(f.OrgID), t.repoStart(f)
	t.orgs[f.OrgID] = FlowTag{Finish: rank + flowCost, Virtual: inner}
	t.repos[f] = FlowTag{Finish: inner + flowCost}
	t.charged[f] = true
	return rank
}

// repoFlowID is under which a repo's tag is kept; an org's is its id.
func repoFlowID(f Flow) string { return f.OrgID + "/" + f.RepoID }

func (u *unit) loadTags(ctx context.Context, flows []Flow) (fairTags, error) {
	t := fairTags{orgs: map[string]FlowTag{}, repos: map[Flow]FlowTag{}, charged: map[Flow]bool{}}
	var err error
	if t.virtual, err = u.VirtualTime(ctx); err != nil {
		return t, err
	}
	for _, f := range flows {
		if _, ok := t.orgs[f.OrgID]; !ok {
			if t.orgs[f.OrgID], err = u.FlowTag(ctx, f.OrgID); err != nil {
				return t, err
			}
		}
		if t.repos[f], err = u.FlowTag(ctx, repoFlowID(f)); err != nil {
			return t, err
		}
	}
	return t, nil
}

// saveTags writes the tags that changed, in one order for everybody so that no
// two transactions wait for each other.
func (u *unit) saveTags(ctx context.Context, t fairTags) error {
	type row struct {
		id, parent string
		tag        FlowTag
	}
	rows := map[string]row{}
	for f := range t.charged {
		rows[f.OrgID] = row{f.OrgID, "", t.orgs[f.OrgID]}
		rows[repoFlowID(f)] = row{repoFlowID(f), f.OrgID, t.repos[f]}
	}
	ordered := make([]row, 0, len(rows))
	for _, r := range rows {
		ordered = append(ordered, r)
	}
	slices.SortFunc(ordered, func(a, b row) int { return strings.Compare(a.id, b.id) })
	for _, r := range ordered {
		if err := u.SaveFlowTag(ctx, r.id, r.parent, r.tag); err != nil {
			return err
		}
	}
	return nil
}
