package scheduler

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Bounds of what a look at the queue reads.
const (
	maxFlowsLooked  = 64    // of a backlog
	maxCounted      = 500   // jobs of one of them
	maxWindowLooked = 1000  // jobs that can be claimed
	maxRunning      = 20000 // jobs on hosts
)

// Place tells where a waiting job stands, and when it may be expected to
// start; nil for one that doesn't wait. Codes: not_found.
func (s *Service) Place(ctx context.Context, orgID, jobID string) (*nimbus.QueuePlace, error) {
	if err := nimbus.CheckID(nimbus.PrefixJob, jobID); err != nil {
		return nil, err
	}
	var place *nimbus.QueuePlace
	err := s.store.View(ctx, func(r Reader) error {
		if _, err := r.Job(ctx, orgID, jobID); err != nil {
			return err
		}
		j, err := r.JobRecord(ctx, jobID)
		if err != nil || j.State != nimbus.StatePending && j.State != nimbus.StateQueued {
			return err
		}
		l, err := s.lineOf(ctx, r, j)
		if err != nil {
			return fmt.Errorf("look at who waits: %w", err)
		}
		place, err = s.expect(ctx, r, j, l)
		return err
	})
	return place, err
}

// line is who waits for the class of a job, as far as it was looked.
type line struct {
	window  []QueuedJob // by rank
	waiting []flowCount // in the backlog, the job's own flow among them
	older   int         // of its own flow before it
	tags    fairTags
	more    bool // wait than were counted
}

// flowCount is how many jobs wait in a flow.
type flowCount struct {
	Waiting
	jobs int
}

// lineOf reads what there is to know of the jobs that wait like one.
func (s *Service) lineOf(ctx context.Context, r Reader, j *JobRecord) (l line, err error) {
	id := j.Class.ID()
	if l.window, err = r.Window(ctx, id, maxWindowLooked); err != nil {
		return l, err
	}
	own := Waiting{Flow{j.OrgID, j.RepoID}, j.Priority}
	if j.State == nimbus.StatePending {
		flows, err := r.Backlog(ctx, id)
		if err != nil {
			return l, err
		}
		if len(flows) > maxFlowsLooked {
			flows, l.more = flows[:maxFlowsLooked], true
		}
		for _, w := range flows {
			n, err := r.CountBacklog(ctx, id, w, "", maxCounted)
			if err != nil {
				return l, err
			}
			l.waiting = append(l.waiting, flowCount{w, n})
			l.more = l.more || n == maxCounted
		}
		if l.older, err = r.CountBacklog(ctx, id, own, j.ID, maxCounted); err != nil {
			return l, err
		}
	}
	waiting := []Waiting{own}
	for _, w := range l.waiting {
		waiting = append(waiting, w.Waiting)
	}
	if l.tags.virtual, err = r.VirtualTime(ctx); err != nil {
		return l, err
	}
	l.tags.flows, err = r.FlowTagsNow(ctx, flowIDs(waiting))
	return l, err
}

// ahead is how many jobs are before one. A job in the window has its rank. One
// in the backlog is given the rank that it would have if all that is before it
// in its own org were promoted first; of the others counts what would start
// before that.
func (l line) ahead(j *JobRecord) int {
	if j.State == nimbus.StateQueued {
		before := 0
		for _, q := range l.window {
			if cmp.Or(cmp.Compare(q.Rank, j.Rank), cmp.Compare(q.ID, j.ID)) < 0 {
				before++
			}
		}
		return before
	}
	own := Waiting{Flow{j.OrgID, j.RepoID}, j.Priority}
	cpus := int64(max(1, j.Class.CPUs))
	inner := l.tags.repoStart(own.Flow) + int64(l.older)*l.tags.step(repoFlowID(own.Flow), own.OrgID, cpus)
	before := l.older
	others := map[string]int{}
	for _, w := range l.waiting {
		switch {
		case w.OrgID != own.OrgID:
			others[w.OrgID] += w.jobs
		case w.Priority > own.Priority:
			before += w.jobs
		case w.Priority == own.Priority && w.RepoID != own.RepoID:
			before += within(l.tags.repoStart(w.Flow), l.tags.step(repoFlowID(w.Flow), w.OrgID, cpus), inner, w.jobs)
		}
	}
	rank := l.tags.orgStart(own.OrgID) + int64(before)*l.tags.step(own.OrgID, own.OrgID, cpus)
	for org, jobs := range others {
		before += within(l.tags.orgStart(org), l.tags.step(org, org, cpus), rank, jobs)
	}
	for _, q := range l.window {
		if q.Rank <= rank {
			before++
		}
	}
	return before
}

// step is by how much a flow's tag moves with each of its jobs.
func (t fairTags) step(id, orgID string, cpus int64) int64 {
	tag := t.flows[id]
	return weighted(cmp.Or(tag.Expected, t.flows[orgID].Expected, firstCost)*cpus, tag)
}

// within is how many of a flow's jobs, which start a step apart, start before
// a limit.
func within(start, step, limit int64, jobs int) int {
	if limit <= start {
		return 0
	}
	return int(min(int64(jobs), (limit-start+step-1)/step))
}

// expect makes of who waits, who runs and what is free what a person is told.
func (s *Service) expect(ctx context.Context, r Reader, j *JobRecord, l line) (*nimbus.QueuePlace, error) {
	p := &nimbus.QueuePlace{Ahead: l.ahead(j), AtLeast: l.more}
	room, err := s.roomFor(ctx, r, j.Class)
	if err != nil {
		return nil, err
	}
	full, err := fullLimit(ctx, r, j)
	if err != nil {
		return nil, err
	}
	budget := budgetWait(s.pacer, &j.Job)
	takes := l.tags.usual(l.waiting, Flow{j.OrgID, j.RepoID})
	switch {
	case room.ready == 0:
		p.Unknown = room.whyNone()
	case full != "":
		p.Unknown = full
	case budget > 0:
		p.Unknown = fmt.Sprintf("GitHub lets no runner be registered for it in the next %v", budget.Round(time.Second))
	case l.more:
		p.Unknown = "too many wait to be counted"
	case room.more:
		p.Unknown = "too many run to be counted"
	case p.Ahead < room.free:
		p.StartAt = r.Now()
	case takes == 0:
		p.Unknown = "no job like it has ended yet, so that nobody knows how long they take"
	case room.free == 0 && len(room.running) == 0:
		p.Unknown = "the hosts that could run it are busy with jobs of other kinds"
	default:
		p.StartAt = startAt(r.Now(), p.Ahead, room.free, room.ends(r.Now(), takes), takes)
	}
	return p, nil
}

// whyNone says why no host takes jobs of a class that some could run.
func (r room) whyNone() string {
	switch r.cordoned {
	case 0:
		return "no host that could run it is here"
	case 1:
		return fmt.Sprintf("the host that could run it, %s, is cordoned: `nimbus hosts uncordon %[1]s` has it take jobs again", r.oneOfThem)
	}
	return fmt.Sprintf("the %d hosts that could run it are cordoned: `nimbus hosts uncordon %s` has one take jobs again", r.cordoned, r.oneOfThem)
}

// usual is how long jobs of flows take, weighted by how many of each wait; 0
// where that is not known of any.
func (t fairTags) usual(waiting []flowCount, own Flow) time.Duration {
	sum, n := int64(0), int64(0)
	add := func(f Flow, jobs int) {
		if ms := cmp.Or(t.flows[repoFlowID(f)].Expected, t.flows[f.OrgID].Expected); ms > 0 {
			sum += ms * int64(jobs)
			n += int64(jobs)
		}
	}
	add(own, 1)
	for _, w := range waiting {
		add(w.Flow, w.jobs)
	}
	if n == 0 {
		return 0
	}
	return time.Duration(sum/n) * time.Millisecond
}

// startAt is when the job starts that so many others are ahead of: each of them
// takes the place that is free first, and has it for as long as jobs take. ends
// are when those that run now give back theirs. There is at least one place.
func startAt(now time.Time, ahead, free int, ends []time.Time, takes time.Duration) time.Time {
	places := slices.Clone(ends)
	for range min(free, ahead+1) {
		places = append(places, now)
	}
	slices.SortFunc(places, time.Time.Compare)
	var again []time.Time // the same places after their next job: in order, since the starts are
	first := func() (t time.Time) {
		if len(places) == 0 || len(again) > 0 && again[0].Before(places[0]) {
			t, again = again[0], again[1:]
		} else {
			t, places = places[0], places[1:]
		}
		return t
	}
	for range ahead {
		again = append(again, first().Add(takes))
	}
	return first()
}

// fullLimit is the sentence about a limit that keeps a pending job waiting, ""
// where there is none.
func fullLimit(ctx context.Context, r Reader, j *JobRecord) (string, error) {
	if j.State != nimbus.StatePending {
		return "", nil
	}
	all, err := r.LimitsOf(ctx, j.OrgID)
	for _, l := range all {
		if l.Counts(&j.Job) && l.Used >= l.Most {
			return fmt.Sprintf("the limit of %s at once of the %s is reached", countJobs(l.Most), l), nil
		}
	}
	return "", err
}

// countJobs is a number of jobs in words.
func countJobs(n int) string {
	if n == 1 {
		return "1 job"
	}
	return fmt.Sprintf("%d jobs", n)
}
