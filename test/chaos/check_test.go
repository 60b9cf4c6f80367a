package chaos

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/test/simhost"
)

// settleTimeout is how long it may take until the next job ends once nothing is
// broken any more: leases run out, jobs are given on, and some of them again. A
// slow machine may have many left to run; the whole has go test's own bound.
const settleTimeout = 3 * time.Minute

// tellEvery is how often somebody who waits for that is told how it goes.
const tellEvery = 15 * time.Second

// lookInterval is how often it is looked whether that is so.
const lookInterval = 250 * time.Millisecond

// rest of what is asked of the books; each counts what must not be there once
// all jobs have ended, but for those that GitHub holds.
var leftovers = map[string]string{
	"attempts that are open":           "SELECT count(*) FROM attempts WHERE state IN ('offered', 'live')",
	"rows in the queue":                "SELECT count(*) FROM queue",
	"rows in the backlog":              "SELECT count(*) FROM backlog",
	"rows of stuck jobs":               "SELECT count(*) FROM stuck WHERE job_id NOT IN (SELECT id FROM jobs WHERE reason_code = 'attempts_used')",
	"deadlines":                        "SELECT count(*) FROM deadlines WHERE job_id NOT IN (SELECT id FROM jobs WHERE reason_code = 'attempts_used')",
	"places of limits that are in use": "SELECT coalesce(sum(used), 0) FROM limits",
}

// settle waits until every job has ended, every machine is idle and GitHub
// knows no runner.
func (w *world) settle(jobs []*submitted) (time.Duration, error) {
	began := time.Now()
	told, moved, least := began, began, len(jobs)
	for {
		var open, busy int
		if err := w.db.query("SELECT count(*) FROM jobs WHERE finished_at = 0 AND reason_code <> 'attempts_used'", &open); err != nil {
			return 0, err
		}
		books, err := w.gitHubBooks()
		if err != nil {
			return 0, err
		}
		for _, m := range w.machines {
			if !m.Idle() {
				busy++
			}
		}
		unknown, inProgress, runners := w.github.restless(books)
		if open == 0 && busy == 0 && unknown == 0 && inProgress == 0 && runners == 0 {
			return time.Since(began), nil
		}
		if time.Since(told) > tellEvery {
			told = time.Now()
			w.t.Logf("%.0f s after the last fault %d jobs have not ended, %d machines are busy", time.Since(began).Seconds(), open, busy)
		}
		if open < least {
			least, moved = open, time.Now()
		}
		if time.Since(moved) > settleTimeout {
			return 0, fmt.Errorf("in %v no job has ended; %d of %d have not, %d machines are busy; GitHub has %d jobs that are not known, %d in progress and %d runners",
				settleTimeout, open, len(jobs), busy, unknown, inProgress, runners)
		}
		for _, r := range w.replicas {
			r.revive()
		}
		rest(w.t.Context(), lookInterval)
	}
}

// verdict is what a run showed.
type verdict struct {
	Lost, Twice, Illegal, Leaked int
	Believed                     int // hosts that spoke of leases that were not theirs
	Requeued                     int
	FromGitHub, Unheard, Runners int
	Undelivered, Redelivered     int // webhooks
	Results                      map[nimbus.Result]int
	problems                     []string
}

func (v *verdict) blame(count *int, format string, args ...any) {
	*count++
	v.problems = append(v.problems, fmt.Sprintf(format, args...))
}

// check holds what the books say against what the machines saw.
func (w *world) check(jobs []*submitted) (*verdict, error) {
	v := &verdict{Results: map[nimbus.Result]int{}}
	byJob := map[string][]simhost.Execution{}
	for _, e := range w.records.Executions() {
		byJob[e.JobID] = append(byJob[e.JobID], e)
	}
	native := slices.DeleteFunc(slices.Clone(jobs), func(s *submitted) bool { return s.github != 0 })
	var rows int
	if err := w.db.query("SELECT count(*) FROM jobs WHERE github_job_id = 0", &rows); err != nil {
		return nil, err
	}
	if rows != len(native) {
		v.blame(&v.Lost, "%d jobs were submitted, and there are %d", len(native), rows)
	}
	for _, s := range native {
		var j nimbus.Job
		w.insist("ask for job "+s.id, func(ctx context.Context) (err error) { // more than an org may at once
			j, err = w.client.Job(ctx, s.id)
			return err
		})
		if j.ID == "" {
			v.blame(&v.Lost, "nothing is known of job %s", s.id)
			continue
		}
		v.ended(s, j, byJob[s.id])
		v.apart(s, byJob[s.id])
	}
	if err := w.checkGitHub(jobs, v); err != nil {
		return nil, err
	}
	w.strays.mu.Lock()
	for _, taken := range w.strays.Taken {
		v.blame(&v.Believed, "was believed: %s", taken)
	}
	w.strays.mu.Unlock()
	if err := w.checkHistory(v); err != nil {
		return nil, err
	}
	return v, w.checkLeftovers(v)
}

// ended holds how a job ended against what its machines saw. It is the word of
// the last of them that counts: an earlier one holds the job no more.
func (v *verdict) ended(s *submitted, j nimbus.Job, seen []simhost.Execution) {
	v.Results[j.Result]++
	v.Requeued += max(0, len(seen)-1)
	last := simhost.Execution{}
	if len(seen) > 0 {
		last = slices.MaxFunc(seen, func(a, b simhost.Execution) int { return cmp.Compare(a.Fence, b.Fence) })
	}
	stopped := slices.ContainsFunc(seen, func(e simhost.Execution) bool { return e.End == simhost.EndCancelled })
	ok := false
	switch j.Result {
	case nimbus.ResultSuccess:
		ok = last.End == simhost.EndDone && last.AttemptID == j.AttemptID
	case nimbus.ResultCancelled:
		ok = s.cancelled
	case nimbus.ResultLost: // nobody can know how it ended: only because its host was silent
		ok = !s.repeatable && len(seen) > 0 && (last.End != simhost.EndDone || !last.Acknowledged)
	case nimbus.ResultFailure: // its machine lost power
		ok = j.Reason.Code != "" && (last.End == simhost.EndCrashed || last.End == simhost.EndExpired)
	}
	if j.State != nimbus.StateFinished || !ok || stopped && !s.cancelled {
		v.blame(&v.Lost, "job %s (repeatable %v, cancelled %v) is %s %s %+v by %s, and its machines saw %s",
			s.id, s.repeatable, s.cancelled, j.State, j.Result, j.Reason, j.AttemptID, describe(seen))
	}
}

// apart looks for two executions that lived at one time, and for a second one
// of a job that may run once alone.
func (v *verdict) apart(s *submitted, seen []simhost.Execution) {
	type span struct {
		simhost.Span
		attempt string
	}
	var spans []span
	lived := map[string]bool{}
	for _, e := range seen {
		for _, l := range e.Live {
			spans = append(spans, span{l, e.AttemptID})
			lived[e.AttemptID] = true
		}
	}
	slices.SortFunc(spans, func(a, b span) int { return a.From.Compare(b.From) })
	for i := 1; i < len(spans); i++ {
		if a, b := spans[i-1], spans[i]; a.attempt != b.attempt && b.From.Before(a.To) {
			v.blame(&v.Twice, "job %s lived twice for %v: %s", s.id, a.To.Sub(b.From), describe(seen))
			return
		}
	}
	if len(lived) > 1 && !s.repeatable {
		// A process that was started and whose start nobody heard of may be
		// followed by another; what it did is known to be cut off before.
		started := 0
		for _, e := range seen {
			if len(e.Live) > 0 && e.End == simhost.EndDone {
				started++
			}
		}
		if started > 1 {
			v.blame(&v.Twice, "job %s, which is not repeatable, came to its end %d times: %s", s.id, started, describe(seen))
		}
	}
}

func describe(seen []simhost.Execution) string {
	slices.SortFunc(seen, func(a, b simhost.Execution) int { return cmp.Compare(a.Fence, b.Fence) })
	out := ""
	for _, e := range seen {
		out += fmt.Sprintf("\n    %s fence %d on %s: %q, acknowledged %v", e.AttemptID, e.Fence, e.HostID, e.End, e.Acknowledged)
		for _, l := range e.Live {
			out += fmt.Sprintf(", lived %s–%s", l.From.Format("05.000"), l.To.Format("05.000"))
		}
	}
	return out
}

// checkHistory holds every move of every job against the table of states.
func (w *world) checkHistory(v *verdict) error {
	states := map[string]bool{}
	for _, s := range nimbus.States() {
		states[string(s)] = true
	}
	var before struct {
		job   string
		state nimbus.State
		seq   int64
	}
	return w.db.rows("SELECT job_id, seq, kind FROM job_events ORDER BY job_id, seq", func(r *sql.Rows) error {
		var job, kind string
		var seq int64
		if err := r.Scan(&job, &seq, &kind); err != nil {
			return err
		}
		if job != before.job {
			before.job, before.state, before.seq = job, "", 0
		}
		if seq != before.seq+1 {
			v.blame(&v.Illegal, "job %s: entry %d of its history follows %d", job, seq, before.seq)
		}
		before.seq = seq
		if !states[kind] {
			return nil
		}
		now := nimbus.State(kind)
		if before.state == "" && now != nimbus.StatePending || before.state != "" && !before.state.CanBecome(now) {
			v.blame(&v.Illegal, "job %s went from %q to %q", job, before.state, now)
		}
		before.state = now
		return nil
	})
}

// checkLeftovers looks for places that are taken although nothing runs.
func (w *world) checkLeftovers(v *verdict) error {
	for what, question := range leftovers {
		var n int
		if err := w.db.query(question, &n); err != nil {
			return err
		}
		if n != 0 {
			v.blame(&v.Leaked, "%d %s", n, what)
		}
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), startTimeout)
	defer cancel()
	for { // a host tells what it has free with its next poll
		hosts, err := w.client.Hosts(ctx)
		if err != nil {
			return err
		}
		taken := ""
		for _, h := range hosts {
			if h.Running != 0 || h.Free.Sandboxes != slots || h.Free.CPUs != slots {
				taken += fmt.Sprintf("; %s runs %d and has %+v free", h.Name, h.Running, h.Free)
			}
		}
		switch {
		case taken == "" && len(hosts) == machines:
			return nil
		case ctx.Err() != nil:
			v.blame(&v.Leaked, "%d hosts%s", len(hosts), taken)
			return nil
		}
		rest(ctx, lookInterval)
	}
}
