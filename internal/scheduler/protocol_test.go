package scheduler_test

import (
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store/storetest"
)

// TestLeaseProtocol plays random histories of jobs, hosts, lost replies, lost
// events and jumps of time against two replicas, and holds them to invariants 1
// to 3: never two live executions of a job, no job forgotten, legal moves only.
// A model predicts which leases hold and which are fenced. One history in
// eight is played on SQLite, which in Go is slow under -race.
func TestLeaseProtocol(t *testing.T) {
	t.Parallel()
	onPostgres, onSQLite := newStage(t, storetest.Postgres(t)), newStage(t, storetest.SQLite(t))
	rapid.Check(t, func(rt *rapid.T) {
		s := onPostgres
		if rapid.IntRange(0, 7).Draw(rt, "engine") == 7 {
			s = onSQLite
		}
		s.t = rt // failures belong to the history that is tried
		s.Service = s.replicas[0]
		p := newPlay(s, rt)
		rt.Repeat(map[string]func(*rapid.T){
			"submit":    p.submit,
			"demand":    p.demand,
			"poll":      p.poll,
			"accept":    p.accept,
			"take":      p.take,
			"start":     p.start,
			"late":      p.late,
			"forge":     p.forge,
			"register":  p.register,
			"assign":    p.assign,
			"deliver":   p.deliver,
			"heartbeat": p.heartbeat,
			"exit":      p.exit,
			"cancel":    p.cancel,
			"balance":   p.balance,
			"time":      p.time,
			"more time": p.time, // what matters most comes more often
			"take more": p.take,
			"":          p.check,
		})
		p.drain()
		s.t = t
	})
}

// stage is where many histories are played: books, two replicas, some hosts.
type stage struct {
	*world
	replicas []*scheduler.Service
	hosts    []string
}

func newStage(t *testing.T, dsn string) *stage {
	t.Helper()
	w := newWorld(t, dsn, scheduler.Config{})
	return &stage{world: w, replicas: []*scheduler.Service{w.Service, w.replica(scheduler.Config{}).Service}, hosts: []string{w.host(), w.host(), w.host()}}
}

// play is the world outside of the scheduler: what hosts and GitHub know.
type play struct {
	*stage
	hosts     []string
	jobs      []string
	cancelled map[string]bool
	accepted  map[string]time.Time      // by attempt: when a host's accept was taken first, whether it heard so or not
	fences    map[string]int64          // by job: of the last accept that was taken
	offers    map[string][]nimbus.Offer // by host: heard of and not accepted yet
	sandboxes map[string]*sandbox       // by attempt
	ghJobs    map[int64]*ghJob
	events    []*nimbus.ForgeEvent // on their way
}

// sandbox is one execution as it really is on its host.
type sandbox struct {
	host     string
	lease    nimbus.Lease
	jobID    string
	source   nimbus.Source
	deadline time.Time // of its shim
	alive    bool      // a process of the job may be running
	started  bool
	runner   string // its registered runner, "" before
	exited   bool   // by itself; the host has yet to get the report through
	outcome  nimbus.Outcome
	ghJob    int64 // what GitHub gave its runner

	// What the model knows of its lease.
	renewed time.Time // when the scheduler took the last renewal
	ended   bool      // the scheduler took the report of its end
	over    bool      // the lease is somebody else's, or was refused: nothing brings it back
}

// ghJob is a job as it really is at GitHub.
type ghJob struct {
	status     nimbus.ForgeStatus
	runner     string
	conclusion string
}

func newPlay(s *stage, rt *rapid.T) *play {
	p := &play{stage: s, offers: map[string][]nimbus.Offer{}, sandboxes: map[string]*sandbox{}, ghJobs: map[int64]*ghJob{},
		cancelled: map[string]bool{}, accepted: map[string]time.Time{}, fences: map[string]int64{}}
	p.hosts = s.hosts[:rapid.IntRange(1, len(s.hosts)).Draw(rt, "hosts")]
	for range rapid.IntRange(0, 2).Draw(rt, "jobs") {
		p.submit(rt)
	}
	return p
}

func (p *play) now() time.Time {
	now, err := p.store.Now(p.t.Context())
	p.must(err)
	return now
}

// balance has the other replica answer from now on, and sweep.
func (p *play) balance(rt *rapid.T) {
	p.Service = p.replicas[rapid.IntRange(0, len(p.replicas)-1).Draw(rt, "replica")]
}

// predict holds the scheduler's word on a lease against the model: what is over
// stays so, and what was renewed in time and not stopped is not taken away.
// GitHub ends its jobs by itself, which the model leaves open. Its time is that
// after the answer: the scheduler may have got round to the question late.
func (p *play) predict(s *sandbox, fenced bool) {
	switch {
	case !fenced && s.over && !s.ended:
		p.t.Fatalf("attempt %s of job %s writes with a lease that is over", s.lease.AttemptID, s.jobID)
	case fenced && s.source == nimbus.SourceNative && !s.over && !s.ended && !p.cancelled[s.jobID]:
		if at := p.now(); at.Before(s.renewed.Add(nimbus.LeaseDuration)) && at.Before(p.accepted[s.lease.AttemptID].Add(startTimeout)) {
			p.t.Fatalf("attempt %s of job %s, renewed %v ago, is fenced", s.lease.AttemptID, s.jobID, at.Sub(s.renewed))
		}
	}
	s.over = s.over || fenced
}

// startTimeout is the default of scheduler.Config.
const startTimeout = 15 * time.Minute

// took notes that an accept was taken: its fence is above all before. Of a native
// job the leases before are over; a runner of GitHub's may have got another job.
func (p *play) took(l nimbus.Lease, jobID string, at time.Time) {
	if _, again := p.accepted[l.AttemptID]; again {
		return
	}
	p.accepted[l.AttemptID] = at
	if l.Fence <= p.fences[jobID] {
		p.t.Fatalf("job %s was accepted with fence %d, and now with %d", jobID, p.fences[jobID], l.Fence)
	}
	p.fences[jobID] = l.Fence
	for _, s := range p.sandboxes {
		s.over = s.over || s.source == nimbus.SourceNative && s.jobID == jobID && s.lease.Fence < l.Fence
	}
}

func (p *play) pickHost(rt *rapid.T) string { return rapid.SampledFrom(p.hosts).Draw(rt, "host") }

// lost tells whether a reply (or a request) does not arrive.
func lost(rt *rapid.T) bool { return rapid.IntRange(0, 3).Draw(rt, "lost") == 0 }

// pick is a sandbox that fulfils the condition; the step is skipped when there
// is none.
func (p *play) pick(rt *rapid.T, is func(*sandbox) bool) *sandbox {
	var ids []string
	for _, id := range slices.Sorted(maps.Keys(p.sandboxes)) {
		if is(p.sandboxes[id]) {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		rt.Skip("no such sandbox")
	}
	return p.sandboxes[rapid.SampledFrom(ids).Draw(rt, "sandbox")]
}

func (p *play) submit(rt *rapid.T) {
	j := p.world.submit(nimbus.Spec{Repeatable: rapid.Bool().Draw(rt, "repeatable")})
	p.jobs = append(p.jobs, j.ID)
}

func (p *play) demand(*rapid.T) {
	p.serial++
	id := int64(p.serial)
	p.ghJobs[id] = &ghJob{status: nimbus.ForgeQueued}
	p.tell(id)
}

// tell puts what GitHub has of a job on its way as an event.
func (p *play) tell(id int64) {
	g := p.ghJobs[id]
	ev := p.event(id, g.status, concluded(g.conclusion))
	ev.RunnerName = g.runner
	p.github.mu.Lock()
	p.github.jobs[id] = *ev
	p.github.mu.Unlock()
	p.events = append(p.events, ev)
}

func (p *play) deliver(rt *rapid.T) {
	if len(p.events) == 0 {
		rt.Skip("no event")
	}
	i := rapid.IntRange(0, len(p.events)-1).Draw(rt, "event")
	ev := p.events[i]
	p.events = slices.Delete(p.events, i, i+1)
	// The first event is what makes a job ours: losing it is another test.
	if ev.Status != nimbus.ForgeQueued && lost(rt) {
		return
	}
	p.world.deliver(ev)
}

func (p *play) poll(rt *rapid.T) {
	host := p.pickHost(rt)
	r := p.world.poll(host)
	if lost(rt) {
		return
	}
	p.offers[host] = r.Offers
	for _, id := range r.Cancel {
		p.stopped(id)
	}
}

// take is what a healthy host does: it polls and accepts at once.
func (p *play) take(rt *rapid.T) {
	host := p.pickHost(rt)
	p.offers[host] = p.world.poll(host).Offers
	for range p.offers[host] {
		p.acceptNext(rt, host)
	}
}

// stopped kills a sandbox that the scheduler wants to end.
func (p *play) stopped(id string) {
	if s := p.sandboxes[id]; s != nil && s.alive {
		s.alive, s.exited, s.outcome = false, true, nimbus.Outcome{Result: nimbus.ResultCancelled, BeforeStart: !s.started}
		p.runnerGone(s)
	}
}

func (p *play) accept(rt *rapid.T) {
	host := p.pickHost(rt)
	if len(p.offers[host]) == 0 {
		rt.Skip("no offer")
	}
	p.acceptNext(rt, host)
}

func (p *play) acceptNext(rt *rapid.T, host string) {
	o := p.offers[host][0]
	sent := p.now()
	a, err := p.Accept(rt.Context(), host, o.Lease)
	if nimbus.ErrorCode(err) == nimbus.CodeFenced {
		p.offers[host] = p.offers[host][1:]
		return
	}
	p.must(err)
	p.took(o.Lease, a.JobID, sent)
	if lost(rt) {
		return // it is tried again
	}
	p.offers[host] = p.offers[host][1:]
	if p.sandboxes[o.AttemptID] == nil {
		p.sandboxes[o.AttemptID] = &sandbox{host: host, lease: o.Lease, jobID: a.JobID, source: a.Source,
			deadline: sent.Add(nimbus.ShimDeadline), alive: true}
	}
	p.sandboxes[o.AttemptID].renewed = sent // a repeated accept renews, too
}

func (p *play) start(rt *rapid.T) {
	s := p.pick(rt, func(s *sandbox) bool { return s.alive && !s.started && s.source == nimbus.SourceNative })
	s.started = true
	if lost(rt) {
		return
	}
	p.fencedOr(s, p.ReportPhase(rt.Context(), s.host, s.lease, nimbus.PhaseStarted, nimbus.Start{}))
}

// late is a report that was on its way for longer than its sandbox may have
// lived.
func (p *play) late(rt *rapid.T) {
	s := p.pick(rt, func(s *sandbox) bool { return s.started && s.source == nimbus.SourceNative })
	err := p.ReportPhase(rt.Context(), s.host, s.lease, nimbus.PhaseStarted, nimbus.Start{})
	fenced := nimbus.ErrorCode(err) == nimbus.CodeFenced
	p.predict(s, fenced)
	if !fenced {
		p.must(err)
	}
}

// forge writes with a lease of another host, or with another fencing number:
// nothing of it is taken, whatever state the attempt is in.
func (p *play) forge(rt *rapid.T) {
	s := p.pick(rt, func(*sandbox) bool { return true })
	host, l := s.host, s.lease
	if rapid.Bool().Draw(rt, "as another host") {
		others := slices.DeleteFunc(slices.Clone(p.stage.hosts), func(h string) bool { return h == host })
		host = rapid.SampledFrom(others).Draw(rt, "host")
	} else {
		l.Fence += rapid.SampledFrom([]int64{-1, 1}).Draw(rt, "fence by")
	}
	_, err := p.Accept(rt.Context(), host, l)
	p.want(nimbus.CodeFenced, err)
	p.want(nimbus.CodeFenced, p.ReportPhase(rt.Context(), host, l, nimbus.PhaseStarted, nimbus.Start{}))
	p.want(nimbus.CodeFenced, p.Finish(rt.Context(), host, l, exited(0)))
	statuses, err := p.Heartbeat(rt.Context(), host, []nimbus.Lease{l})
	p.must(err)
	if len(statuses) != 1 || statuses[0].Verdict != nimbus.VerdictFenced {
		p.t.Fatalf("a forged lease on attempt %s is answered with %+v", l.AttemptID, statuses)
	}
}

// fencedOr destroys a sandbox whose lease is somebody else's by now.
func (p *play) fencedOr(s *sandbox, err error) {
	p.predict(s, nimbus.ErrorCode(err) == nimbus.CodeFenced)
	if nimbus.ErrorCode(err) == nimbus.CodeFenced {
		s.alive, s.exited = false, false
		p.runnerGone(s)
		return
	}
	p.must(err)
}

func (p *play) register(rt *rapid.T) {
	s := p.pick(rt, func(s *sandbox) bool { return s.alive && !s.started && s.source == nimbus.SourceGitHub })
	r, _, err := p.CreateRunner(rt.Context(), s.host, s.lease)
	if nimbus.ErrorCode(err) == nimbus.CodeConflict { // it wants none any more
		return
	}
	p.fencedOr(s, err)
	if err == nil && !lost(rt) {
		s.started, s.runner = true, r.Name
	}
}

// assign is GitHub giving a waiting job to any runner that is up.
func (p *play) assign(rt *rapid.T) {
	s := p.pick(rt, func(s *sandbox) bool { return s.alive && s.runner != "" && s.ghJob == 0 })
	var waiting []int64
	for _, id := range slices.Sorted(maps.Keys(p.ghJobs)) {
		if p.ghJobs[id].status == nimbus.ForgeQueued {
			waiting = append(waiting, id)
		}
	}
	if len(waiting) == 0 {
		rt.Skip("no job waits at GitHub")
	}
	s.ghJob = rapid.SampledFrom(waiting).Draw(rt, "job at GitHub")
	p.ghJobs[s.ghJob].status, p.ghJobs[s.ghJob].runner = nimbus.ForgeInProgress, s.runner
	p.tell(s.ghJob)
}

// runnerGone is what GitHub makes of a runner that vanishes with a job.
func (p *play) runnerGone(s *sandbox) {
	if g := p.ghJobs[s.ghJob]; g != nil && g.status == nimbus.ForgeInProgress {
		g.status, g.conclusion = nimbus.ForgeCompleted, "failure"
		p.tell(s.ghJob)
	}
}

func (p *play) heartbeat(rt *rapid.T) {
	host := p.pickHost(rt)
	var leases []nimbus.Lease
	for _, s := range p.sandboxes {
		if s.host == host && (s.alive || s.exited) {
			leases = append(leases, s.lease)
		}
	}
	sent := p.now()
	statuses, err := p.Heartbeat(rt.Context(), host, leases)
	p.must(err)
	p.renewed(statuses, sent)
	if lost(rt) {
		return
	}
	for _, st := range statuses {
		switch s := p.sandboxes[st.AttemptID]; st.Verdict {
		case nimbus.VerdictKeep:
			s.deadline = sent.Add(nimbus.ShimDeadline)
		case nimbus.VerdictCancel:
			p.stopped(st.AttemptID)
		case nimbus.VerdictFenced:
			s.alive, s.exited = false, false
			p.runnerGone(s)
		}
	}
}

// renewed is what the scheduler did, whether the host hears of it or not.
func (p *play) renewed(statuses []nimbus.LeaseStatus, at time.Time) {
	for _, st := range statuses {
		s := p.sandboxes[st.AttemptID]
		p.predict(s, st.Verdict == nimbus.VerdictFenced)
		if st.Verdict == nimbus.VerdictKeep && p.cancelled[s.jobID] {
			p.t.Fatalf("attempt %s of job %s, which was cancelled, is to go on", st.AttemptID, s.jobID)
		}
		if st.Verdict != nimbus.VerdictFenced {
			s.renewed = at
		}
	}
}

func (p *play) exit(rt *rapid.T) {
	s := p.pick(rt, func(s *sandbox) bool { return s.alive || s.exited })
	if s.alive {
		s.alive, s.exited = false, true
		s.outcome = exited(rapid.IntRange(0, 1).Draw(rt, "exit code"))
		if !s.started {
			s.outcome = nimbus.Outcome{Result: nimbus.ResultFailure, BeforeStart: true, Reason: nimbus.Reason{Code: nimbus.ReasonSandboxFailed}}
		}
		if g := p.ghJobs[s.ghJob]; g != nil {
			g.status, g.conclusion = nimbus.ForgeCompleted, "success"
			p.tell(s.ghJob)
		}
	}
	err := p.Finish(rt.Context(), s.host, s.lease, s.outcome)
	p.predict(s, nimbus.ErrorCode(err) == nimbus.CodeFenced)
	if nimbus.ErrorCode(err) != nimbus.CodeFenced {
		p.must(err)
		s.ended = true
		if lost(rt) {
			return // it is told again
		}
	}
	s.exited = false
}

func (p *play) cancel(rt *rapid.T) {
	if len(p.jobs) == 0 {
		rt.Skip("no job")
	}
	id := rapid.SampledFrom(p.jobs).Draw(rt, "job")
	_, err := p.Cancel(rt.Context(), admin, nimbus.DefaultOrgID, id)
	p.must(err)
	p.cancelled[id] = true
}

func (p *play) time(rt *rapid.T) {
	d := rapid.SampledFrom([]time.Duration{time.Second, 4 * time.Second, 12 * time.Second, 12 * time.Second, 31 * time.Second}).Draw(rt, "by")
	p.jump(d, !lost(rt))
}

// jump moves time; shims kill what was not renewed.
func (p *play) jump(d time.Duration, sweep bool) {
	p.skip(d)
	now := p.now()
	for _, id := range slices.Sorted(maps.Keys(p.sandboxes)) {
		if s := p.sandboxes[id]; s.alive && !s.deadline.After(now) {
			s.alive = false
			p.runnerGone(s)
		}
	}
	if !sweep {
		return
	}
	p.sweep()
	for _, s := range p.sandboxes {
		s.over = s.over || !s.ended && now.Sub(s.renewed) > nimbus.LeaseDuration+dawdle
	}
}

// dawdle is the most that a busy machine takes from when a renewal is sent until
// it is taken.
const dawdle = 5 * time.Second

// check holds the world to the invariants.
func (p *play) check(*rapid.T) {
	running := map[string]string{}
	for id, s := range p.sandboxes {
		if !s.alive || s.source == nimbus.SourceGitHub { // GitHub itself gives a job to one runner
			continue
		}
		if other, ok := running[s.jobID]; ok {
			p.t.Fatalf("job %s lives in %s and %s", s.jobID, id, other)
		}
		running[s.jobID] = id
	}
}

// drain lets everybody do its duty, after which every job must have ended.
func (p *play) drain() {
	ctx := p.t.Context()
	for round := range 200 {
		for _, ev := range p.events {
			p.world.deliver(ev)
		}
		p.events = nil
		if p.allFinished() {
			p.legal()
			return
		}
		for id, s := range p.sandboxes {
			switch {
			case s.alive && s.started:
				s.outcome = exited(0)
				p.runnerDone(s)
			case s.alive && s.source == nimbus.SourceGitHub:
				r, _, err := p.CreateRunner(ctx, s.host, s.lease)
				if err == nil {
					s.started, s.runner = true, r.Name
					p.give(s)
					continue
				}
				s.outcome = nimbus.Outcome{Result: nimbus.ResultCancelled, BeforeStart: true}
			case s.alive:
				s.outcome = exited(0)
			case !s.exited:
				continue
			}
			s.alive, s.exited = false, false
			if err := p.Finish(ctx, s.host, s.lease, s.outcome); err != nil {
				p.want(nimbus.CodeFenced, err)
			}
			delete(p.sandboxes, id)
		}
		for _, host := range p.hosts {
			for _, o := range p.world.poll(host).Offers {
				a, err := p.Accept(ctx, host, o.Lease)
				p.must(err)
				p.sandboxes[o.AttemptID] = &sandbox{host: host, lease: o.Lease, jobID: a.JobID, source: a.Source, alive: true,
					deadline: p.now().Add(nimbus.ShimDeadline), started: a.Source == nimbus.SourceNative, renewed: p.now()}
			}
		}
		p.giveUp()
		p.check(nil)
		p.jump(time.Duration(1+round)*time.Second, true)
	}
	p.t.Fatal("jobs are left that never end")
}

// give is GitHub giving a runner the first job that waits.
func (p *play) give(s *sandbox) {
	for _, id := range slices.Sorted(maps.Keys(p.ghJobs)) {
		if g := p.ghJobs[id]; g.status == nimbus.ForgeQueued && s.ghJob == 0 {
			s.ghJob, g.status, g.runner = id, nimbus.ForgeInProgress, s.runner
			p.tell(id)
		}
	}
}

func (p *play) runnerDone(s *sandbox) {
	if g := p.ghJobs[s.ghJob]; g != nil && g.status == nimbus.ForgeInProgress {
		g.status, g.conclusion = nimbus.ForgeCompleted, "success"
		p.tell(s.ghJob)
	}
}

// giveUp is GitHub cancelling the jobs that are held since their attempts are used
// up: until then, or until somebody has one run again, GitHub waits for them.
func (p *play) giveUp() {
	page, err := p.Jobs(p.t.Context(), nimbus.DefaultOrgID, scheduler.JobFilter{PageSize: scheduler.MaxPageSize, States: []nimbus.State{nimbus.StateUnschedulable}})
	p.must(err)
	for _, j := range page.Jobs {
		g := p.ghJobs[j.GitHub.JobID]
		if j.Source == nimbus.SourceGitHub && j.Reason.Code == nimbus.ReasonAttemptsUsed && g != nil && g.status == nimbus.ForgeQueued {
			g.status, g.conclusion = nimbus.ForgeCompleted, "cancelled"
			p.tell(j.GitHub.JobID)
		}
	}
}

func (p *play) allFinished() bool {
	page, err := p.Jobs(p.t.Context(), nimbus.DefaultOrgID, scheduler.JobFilter{PageSize: 1, States: slices.DeleteFunc(nimbus.States(),
		func(s nimbus.State) bool { return s == nimbus.StateFinished })})
	p.must(err)
	return len(page.Jobs) == 0
}

// legal checks the history of each job against the table of states.
func (p *play) legal() {
	page, err := p.Jobs(p.t.Context(), nimbus.DefaultOrgID, scheduler.JobFilter{PageSize: scheduler.MaxPageSize})
	p.must(err)
	for _, j := range page.Jobs {
		if j.Source == nimbus.SourceGitHub && j.Result == nimbus.ResultSuccess && p.ghJobs[j.GitHub.JobID] != nil &&
			p.ghJobs[j.GitHub.JobID].conclusion != "success" {
			p.t.Fatalf("job %s is a success here, and %+v at GitHub", j.ID, p.ghJobs[j.GitHub.JobID])
		}
		if !slices.Contains(p.jobs, j.ID) && p.ghJobs[j.GitHub.JobID] == nil {
			continue // of a history before
		}
		events, err := p.Events(p.t.Context(), nimbus.DefaultOrgID, j.ID)
		p.must(err)
		state := nimbus.State("")
		for _, e := range events {
			next := nimbus.State(e.Kind)
			if !slices.Contains(nimbus.States(), next) {
				continue
			}
			if state != "" && !state.CanBecome(next) && next != nimbus.StateFinished {
				p.t.Fatalf("job %s went from %s to %s", j.ID, state, next)
			}
			state = next
		}
		if state != nimbus.StateFinished {
			p.t.Fatalf("the history of job %s ends with %s", j.ID, state)
		}
	}
}
