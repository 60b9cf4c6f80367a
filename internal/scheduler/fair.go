package scheduler

import (
	"cmp"
	"context"
	"maps"
	"math"
	"slices"
	"sync"

	"github.com/nimbus-ci/nimbus"
)

const (
	// firstCost is what a job of a flow is taken to cost while nothing is known
	// of its like: a minute of one CPU, in milliseconds.
	firstCost = 60_000
	// costMemory is of how many jobs the expected cost is the running mean.
	costMemory = 8
	// maxRankedAnew bounds how many queued jobs of an org get new ranks at once.
	maxRankedAnew = 512
	// headDepth is how far into a flow a job is looked for whose limits have
	// room, when that of the first has none.
	headDepth = 16
)

// promoteLater has the window of a class looked after when all operations of
// the transaction have run.
func (u *unit) promoteLater(class nimbus.Class) { u.promote[class.ID()] = class }

// window is one that may be filled, and what it may be filled from.
type window struct {
	classID string
	from    *promotable
}

// window is that of a class, nil when there is nothing to be done for it: there
// is nobody to be queued, or no host that could run it.
func (u *unit) window(ctx context.Context, class nimbus.Class) (*window, error) {
	id := class.ID()
	newcomers := u.Newcomers(id)
	head, err := u.QueueHead(ctx, id)
	if err != nil {
		return nil, err
	}
	u.crowded.saw(id, head.Backlog)
	if !head.Backlog && len(newcomers) == 0 || !u.fleet.anyServes(class, u.presentHost) {
		return nil, nil
	}
	w := &window{id, u.promotable(id, newcomers)}
	if head.Backlog {
		if len(newcomers) == 0 && head.Length > u.cfg.Window/2 {
			return nil, nil
		}
		err = w.from.addBacklog(ctx)
	}
	return w, err
}

// crowded remembers which classes had a backlog when a replica looked last.
type crowded struct {
	mu      sync.Mutex
	classes map[string]bool
}

func (c *crowded) saw(classID string, backlog bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !backlog {
		delete(c.classes, classID)
		return
	}
	if len(c.classes) >= maxClasses {
		clear(c.classes)
	}
	c.classes[classID] = true
}

func (c *crowded) any(classIDs []string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(classIDs, func(id string) bool { return c.classes[id] })
}

// fill moves jobs of a class from its backlog into the window that hosts claim
// from. Which job is next is start-time fair queueing, over orgs and then over
// the repos of the org: a flow's next job starts at the flow's own finish tag,
// or at the virtual time when that is later, so that who was idle gets no
// credit for it. The start is the job's rank.
//
// The window is filled once half of it is empty, but a job that would be
// before others in it needs not wait for that: a newcomer to a busy class is
// claimed next.
func (u *unit) fill(ctx context.Context, w *window) error {
	head, err := u.QueueHead(ctx, w.classID)
	if err != nil {
		return err
	}
	from := w.from
	waiting := from.waiting()
	tags, err := u.loadTags(ctx, waiting)
	if err != nil {
		return err
	}
	limits, err := u.loadLimits(ctx, waiting)
	if err != nil {
		return err
	}
	tags.sort(waiting)
	from.step = max(2, u.cfg.Window/max(1, len(waiting)))
	refill := head.Length <= u.cfg.Window/2
	for len(waiting) > 0 {
		i := tags.next(waiting)
		next := waiting[i]
		room := head.Length < u.cfg.Window && refill
		ahead := head.Length < 2*u.cfg.Window && tags.orgStart(next.OrgID) < head.Highest
		if !room && !ahead {
			break // and so are all others: this one would be the first
		}
		j, err := from.next(ctx, waiting[i:], limits)
		if err != nil {
			return err
		}
		if j == nil { // empty by now, held by others, or at its limits
			waiting = slices.Delete(waiting, i, i+1)
			continue
		}
		limits.take(j)
		j.Rank, j.Cost = tags.charge(next.Flow, j)
		if err := u.move(ctx, j, Move{To: nimbus.StateQueued, Actor: actorSystem}); err != nil {
			return err
		}
		head.Length++
		head.Highest = max(head.Highest, j.Rank)
	}
	if err := u.saveLimits(ctx, limits); err != nil {
		return err
	}
	return u.saveTags(ctx, tags)
}

// promotable are the jobs of a class that could be queued: those of its backlog,
// and those of this very transaction, which need not go through it.
type promotable struct {
	unit      *unit
	classID   string
	newcomers map[Waiting][]*JobRecord
	flows     map[Waiting]*ahead
	step      int // how many are read of a flow at once
}

// ahead is what was read ahead of a flow.
type ahead struct {
	jobs   []*JobRecord
	last   string // up to which job the backlog was read
	all    bool   // there is no more in the backlog
	unread bool
}

func (u *unit) promotable(classID string, newcomers []*JobRecord) *promotable {
	p := &promotable{unit: u, classID: classID, newcomers: map[Waiting][]*JobRecord{}, flows: map[Waiting]*ahead{}}
	for _, j := range newcomers {
		w := Waiting{Flow{j.OrgID, j.RepoID}, j.Priority}
		p.newcomers[w] = append(p.newcomers[w], j)
	}
	for w, jobs := range p.newcomers {
		p.flows[w] = &ahead{jobs: jobs, all: true}
	}
	return p
}

// addBacklog adds who waits in the backlog, before the newcomers.
func (p *promotable) addBacklog(ctx context.Context) error {
	flows, err := p.unit.Backlog(ctx, p.classID)
	for _, w := range flows {
		p.flows[w] = &ahead{unread: true}
	}
	return err
}

func (p *promotable) waiting() []Waiting {
	return slices.SortedFunc(maps.Keys(p.flows), compareWaiting)
}

// next takes the next job of the first of the flows whose limits have room, nil
// when there is none. The others are those of whom the next ones will likely be
// asked for.
func (p *promotable) next(ctx context.Context, of []Waiting, l *limits) (*JobRecord, error) {
	f := p.flows[of[0]]
	if len(f.jobs) == 0 && !f.all {
		if err := p.read(ctx, of, p.step); err != nil {
			return nil, err
		}
	}
	i := slices.IndexFunc(f.jobs, l.room)
	if i < 0 && !f.all && len(f.jobs) < headDepth {
		if err := p.read(ctx, of[:1], headDepth); err != nil {
			return nil, err
		}
		i = slices.IndexFunc(f.jobs, l.room)
	}
	if i < 0 {
		return nil, nil
	}
	j := f.jobs[i]
	f.jobs = slices.Delete(f.jobs, i, i+1)
	return j, nil
}

// read reads n more jobs of the first flow, and with them those of others that
// nothing was read of yet.
func (p *promotable) read(ctx context.Context, of []Waiting, n int) error {
	from := []Behind{{of[0], p.flows[of[0]].last}}
	for _, w := range of[1:] {
		if p.flows[w].unread && len(from)*n < p.unit.cfg.Window {
			from = append(from, Behind{Waiting: w})
		}
	}
	jobs, err := p.unit.NextPending(ctx, p.classID, from, n)
	if err != nil {
		return err
	}
	found := map[Waiting][]*JobRecord{}
	for _, j := range jobs {
		w := Waiting{Flow{j.OrgID, j.RepoID}, j.Priority}
		found[w] = append(found[w], j)
	}
	for _, b := range from {
		p.flows[b.Waiting].add(found[b.Waiting], n, p.newcomers[b.Waiting])
	}
	return nil
}

// add adds what was found of a flow when n jobs were asked for, and behind its
// last one the newcomers.
func (a *ahead) add(found []*JobRecord, n int, newcomers []*JobRecord) {
	a.unread = false
	a.jobs = append(a.jobs, found...)
	if len(found) > 0 {
		a.last = found[len(found)-1].ID
	}
	if len(found) < n {
		a.all = true
		a.jobs = append(a.jobs, newcomers...)
	}
}

func compareWaiting(a, b Waiting) int {
	return cmp.Or(cmp.Compare(a.OrgID, b.OrgID), cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.RepoID, b.RepoID))
}

// fairTags are the tags of the flows that take part in a promotion.
type fairTags struct {
	virtual int64
	flows   map[string]FlowTag // orgs and repos, by flow id
	charged map[Flow]bool
}

// orgStart and repoStart are the start tags of the next job.
func (t fairTags) orgStart(orgID string) int64 { return t.flows[orgID].start(t.virtual) }

func (t fairTags) repoStart(f Flow) int64 {
	return t.flows[repoFlowID(f)].start(t.flows[f.OrgID].Virtual)
}

// start is the start tag of a flow's next job, at a virtual time. It is never
// before that of the last one, whatever the flow was given back meanwhile: jobs
// that have their ranks already are not overtaken by their own flow's next.
func (t FlowTag) start(virtual int64) int64 { return max(virtual, t.Finish, t.Start) }

// charge gives a flow its next job.
func (t *FlowTag) charge(virtual, cost int64) {
	start := t.start(virtual)
	t.Finish = max(virtual, t.Finish) + weighted(cost, *t)
	t.Start = start
}

// correct adds to what a flow was charged, or takes from it. What it is given
// back beyond a few jobs' cost is forgotten: it would be a burst that keeps
// others waiting.
func (t *FlowTag) correct(cost int64) {
	kept := costMemory * weighted(cmp.Or(t.Expected, firstCost), *t)
	t.Finish = max(0, t.Finish+cost*DefaultWeight/cmp.Or(t.Weight, DefaultWeight), t.Start-kept)
}

// next is the index of who is next.
func (t fairTags) next(waiting []Waiting) int {
	best := 0
	for i, w := range waiting {
		if t.compare(w, waiting[best]) < 0 {
			best = i
		}
	}
	return best
}

// sort puts who is next first.
func (t fairTags) sort(waiting []Waiting) { slices.SortStableFunc(waiting, t.compare) }

// compare tells who is before the other: of the org that starts first its
// highest priority, and of that the repo that starts first. Priority is among
// the jobs of one org; it takes nothing from another.
func (t fairTags) compare(a, b Waiting) int {
	return cmp.Or(
		cmp.Compare(t.orgStart(a.OrgID), t.orgStart(b.OrgID)),
		cmp.Compare(a.OrgID, b.OrgID),
		-cmp.Compare(a.Priority, b.Priority),
		cmp.Compare(t.repoStart(a.Flow), t.repoStart(b.Flow)),
	)
}

// charge counts a job to its flow, and returns its rank and what it was charged.
func (t fairTags) charge(f Flow, j *JobRecord) (rank, cost int64) {
	org, repo := t.flows[f.OrgID], t.flows[repoFlowID(f)]
	rank = t.orgStart(f.OrgID)
	inner := t.repoStart(f)
	cost = cmp.Or(repo.Expected, org.Expected, firstCost) * int64(max(1, j.Class.CPUs))
	org.charge(t.virtual, cost)
	repo.charge(org.Virtual, cost)
	org.Virtual = inner
	t.flows[f.OrgID], t.flows[repoFlowID(f)] = org, repo
	t.charged[f] = true
	return rank, cost
}

// weighted is a cost as the tag of a flow counts it.
func weighted(cost int64, t FlowTag) int64 {
	return max(1, cost*DefaultWeight/cmp.Or(t.Weight, DefaultWeight))
}

// repoFlowID is under which a repo's tag is kept; an org's is its id.
func repoFlowID(f Flow) string { return f.OrgID + "/" + f.RepoID }

func (u *unit) loadTags(ctx context.Context, waiting []Waiting) (fairTags, error) {
	t := fairTags{charged: map[Flow]bool{}}
	var err error
	if t.virtual, err = u.VirtualTime(ctx); err != nil {
		return t, err
	}
	t.flows, err = u.FlowTags(ctx, flowIDs(waiting))
	return t, err
}

func flowIDs(waiting []Waiting) (ids []string) {
	for _, w := range waiting {
		ids = append(ids, w.OrgID, repoFlowID(w.Flow))
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

func (u *unit) saveTags(ctx context.Context, t fairTags) error {
	for f := range t.charged {
		if err := u.SaveFlowTag(ctx, f.OrgID, "", t.flows[f.OrgID]); err != nil {
			return err
		}
		if err := u.SaveFlowTag(ctx, repoFlowID(f), f.OrgID, t.flows[repoFlowID(f)]); err != nil {
			return err
		}
	}
	return nil
}

// correction is the difference between what a flow was charged for jobs that
// have ended and what they took.
type correction struct {
	cost int64   // to be added
	took []int64 // of one CPU, for the jobs that ran
}

// correct makes the charge for a job what it really took of hosts: a flow's
// share is of slot-time, not of jobs.
func (u *unit) correct(j *JobRecord, a *Attempt) {
	if j.Cost == 0 {
		return
	}
	f := Flow{j.OrgID, j.RepoID}
	c := u.corrects[f]
	if c == nil {
		c = &correction{}
		u.corrects[f] = c
	}
	c.cost -= j.Cost
	if a != nil && !a.AcceptedAt.IsZero() {
		took := max(1, u.now.Sub(a.AcceptedAt).Milliseconds())
		c.cost += took * int64(max(1, j.Class.CPUs))
		c.took = append(c.took, took)
	}
	j.Cost = 0
}

func (u *unit) correctAll(ctx context.Context) error {
	if len(u.corrects) == 0 {
		return nil
	}
	var waiting []Waiting
	for f := range u.corrects {
		waiting = append(waiting, Waiting{Flow: f})
	}
	tags, err := u.FlowTags(ctx, flowIDs(waiting))
	if err != nil {
		return err
	}
	var learnt []string // orgs of which it was not known what their jobs cost
	for f, c := range u.corrects {
		if len(c.took) > 0 && tags[repoFlowID(f)].Expected == 0 {
			learnt = append(learnt, f.OrgID)
		}
		for id, parent := range map[string]string{f.OrgID: "", repoFlowID(f): f.OrgID} {
			tag := tags[id]
			tag.correct(c.cost)
			for _, took := range c.took {
				tag.Expected = mean(tag.Expected, took)
			}
			tags[id] = tag
			if err := u.SaveFlowTag(ctx, id, parent, tag); err != nil {
				return err
			}
		}
	}
	clear(u.corrects)
	slices.Sort(learnt)
	for _, org := range slices.Compact(learnt) {
		if err := u.rankAnew(ctx, org); err != nil {
			return err
		}
	}
	return nil
}

// rankAnew gives the queued jobs of an org new ranks, now that it is known what
// such jobs cost: ranks that rest on a wrong guess would have its jobs wait far
// too long, or others wait for them.
func (u *unit) rankAnew(ctx context.Context, orgID string) error {
	jobs, err := u.QueuedOf(ctx, orgID, maxRankedAnew)
	if err != nil || len(jobs) == 0 {
		return err
	}
	var waiting []Waiting
	for _, j := range jobs {
		waiting = append(waiting, Waiting{Flow: Flow{j.OrgID, j.RepoID}})
	}
	tags, err := u.loadTags(ctx, waiting)
	if err != nil {
		return err
	}
	tags.takeBack(jobs)
	for _, j := range jobs {
		j.Rank, j.Cost = tags.charge(Flow{j.OrgID, j.RepoID}, j)
		if err := u.SaveJob(ctx, j); err != nil {
			return err
		}
	}
	return u.saveTags(ctx, tags)
}

// takeBack makes tags what they were before jobs of one org were charged, which
// are in the order of their ranks.
func (t fairTags) takeBack(jobs []*JobRecord) {
	for _, j := range jobs {
		for _, id := range []string{j.OrgID, repoFlowID(Flow{j.OrgID, j.RepoID})} {
			tag := t.flows[id]
			tag.Finish = max(0, tag.Finish-weighted(j.Cost, tag))
			tag.Start = min(tag.Start, tag.Finish)
			t.flows[id] = tag
		}
	}
	org := t.flows[jobs[0].OrgID]
	org.Start = min(org.Start, jobs[0].Rank)
	t.flows[jobs[0].OrgID] = org
}

// mean moves a running mean; the first value is the mean of one.
func mean(before, value int64) int64 {
	if before == 0 {
		return value
	}
	return before + int64(math.Round(float64(value-before)/costMemory))
}
