package store

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

// books is what one transaction holds of the scheduler's tables: the rows that
// it has locked, as they are by now, and what the database does not know yet.
// Changes are gathered and written together by flush, in one statement a table,
// before a statement that has to see them and at the end. That is what lets
// the work of many requests share one transaction at the price of few.
type books struct {
	jobs     map[string]*jobEntry
	attempts map[string]*attemptEntry // nil: known to be none

	github     map[int64]string // GitHub's job id -> ours, "" for none
	deliveries map[string]*deliveryEntry
	forgeJobs  map[int64]*forgeEntry
	repos      map[string]repoEntry // by name, lower case
	classes    map[string]bool      // in the table, or about to be
	flows      map[string]*flowEntry
	limitUses  map[string]int   // by how much limits are used more, or less
	notices    map[string]int64 // when to look what is to be told of jobs
	usages     map[string][]any // rows of what attempts used

	ahead ahead

	events  [][]any
	lapsed  [][]any
	changes int // ever made
	unsaved bool
}

func newBooks() *books {
	return &books{
		jobs: map[string]*jobEntry{}, attempts: map[string]*attemptEntry{}, github: map[int64]string{},
		deliveries: map[string]*deliveryEntry{}, forgeJobs: map[int64]*forgeEntry{}, repos: map[string]repoEntry{},
		classes: map[string]bool{}, flows: map[string]*flowEntry{},
		limitUses: map[string]int{}, notices: map[string]int64{}, usages: map[string][]any{}, ahead: newAhead(),
	}
}

// touch notes that something has to be written.
func (b *books) touch() {
	b.changes++
	b.unsaved = true
}

// jobEntry is a job that the transaction has locked or made.
type jobEntry struct {
	now      scheduler.JobRecord
	events   int64
	inserted bool // not in the database yet
	changed  bool
	stored   place // where the database has it
}

// place is where a job stands by its state: in the backlog, the queue, among
// the stuck or nowhere.
type place struct {
	table    string
	classID  string
	rank     int64
	priority int64
	reason   string
}

func placeOf(j *scheduler.JobRecord) place {
	switch j.State {
	case nimbus.StatePending:
		return place{table: "backlog", classID: j.Class.ID(), priority: int64(j.Priority)}
	case nimbus.StateQueued:
		return place{table: "queue", classID: j.Class.ID(), rank: j.Rank}
	case nimbus.StateUnschedulable:
		return place{table: "stuck", classID: j.Class.ID(), reason: string(j.Reason.Code)}
	}
	return place{}
}

// attemptEntry is an attempt of a locked job.
type attemptEntry struct {
	now      scheduler.Attempt
	logTotal int64
	stored   int64 // version in the database
	inserted bool
	changed  bool
}

// Statements of flush, in its order. What one needs of another goes first.
type flushStatements struct {
	classes, insertJobs, updateJobs, insertAttempts, updateAttempts, events, deleteLapsed      bulk
	enterBacklog, leaveBacklog, enterQueue, leaveQueue, enterStuck, leaveStuck                 bulk
	setDeadline, dropDeadline, tags                                                            bulk
	deliveries, forgeJobs, repos, flows, newFlows, giveLimits, takeLimits, touchHosts, notices bulk
	usage, liveUsage                                                                           bulk
}

const (
	jobKeys    = "id text"
	jobMutable = "class_id text, class text, state text, result text, reason_code text, reason_message text, attempt_id text, " +
		"attempt_count bigint, fair_rank bigint, stop_result text, stop_code text, stop_message text, due_at bigint, check_at bigint, " +
		"checks bigint, queued_at bigint, finished_at bigint, event_count bigint, priority bigint, fair_cost bigint, limit_keys text"
	jobFixed = "org_id text, repo_id text, source text, name text, repo text, labels text, any_executor boolean, spec text, " +
		"github_job_id bigint, github text, idempotency_key text, max_attempts bigint, received_at bigint, admitted_at bigint, metadata text, " +
		"rerun_of text, idempotent_sum text"
	attemptMutable = "job_id text, state text, expires_at bigint, stop_at bigint, accepted_at bigint, sandbox_ready_at bigint, " +
		"started_at bigint, running_at bigint, first_output_at bigint, ended_at bigint, destroyed_at bigint, runner_name text, " +
		"runner_id bigint, runner_org text, runner_todo bigint, outcome text, exit_code bigint, token_hash text, origin text, log_total bigint"
	attemptFixed = "org_id text, host_id text, fence bigint, offered_at bigint"
)

// newFlushStatements is called once a store: the texts are long.
func newFlushStatements() *flushStatements {
	attempts := bulkUpdate("attempts", "id text, version bigint", attemptMutable)
	const andCount = " SET version = %[1]sversion + 1, log_complete = (%[2]s >= 0 AND %[1]slog_stored >= %[2]s), "
	total := fmt.Sprintf("$%d", len(attempts.columns))
	attempts.one = strings.Replace(attempts.one, " SET ", fmt.Sprintf(andCount, "", total), 1)
	attempts.many = strings.Replace(attempts.many, " SET ", fmt.Sprintf(andCount, "t.", "v.log_total"), 1)
	give := bulkUpdate("limits", "id text", "used bigint")
	give.one = strings.Replace(give.one, "used = $2", "used = used + $2", 1)
	give.many = strings.Replace(give.many, "used = v.used", "used = t.used + v.used", 1)
	take := give
	take.one += " AND used + $2 <= most"
	take.many += " AND t.used + v.used <= t.most"
	return &flushStatements{
		giveLimits: give, takeLimits: take, touchHosts: newTouchHosts(),
		liveUsage: newLiveUsage(), usage: bulkInsert("attempt_usage", usageColumns, onUsage),
		classes:        bulkInsert("classes", "id text, spec text", "ON CONFLICT (id) DO NOTHING"),
		insertJobs:     bulkInsert("jobs", jobKeys+", "+jobMutable+", "+jobFixed, ""),
		updateJobs:     bulkUpdate("jobs", jobKeys, jobMutable),
		insertAttempts: bulkInsert("attempts", "id text, "+attemptMutable+", "+attemptFixed, ""),
		updateAttempts: attempts,
		events: bulkInsert("job_events",
			"job_id text, seq bigint, at bigint, kind text, attempt_id text, actor text, detail text", ""),
		deleteLapsed: bulkDelete("attempts", "id text"),
		enterBacklog: bulkInsert("backlog", "job_id text, class_id text, org_id text, repo_id text, priority bigint", ""),
		leaveBacklog: bulkDelete("backlog", "job_id text"),
		enterQueue:   bulkInsert("queue", "job_id text, class_id text, org_id text, fair_rank bigint", ""),
		leaveQueue:   bulkDelete("queue", "job_id text"),
		enterStuck:   bulkInsert("stuck", "job_id text, class_id text, reason_code text", ""),
		leaveStuck:   bulkDelete("stuck", "job_id text"),
		setDeadline: bulkInsert("deadlines", "job_id text, due_at bigint",
			"ON CONFLICT (job_id) DO UPDATE SET due_at = excluded.due_at WHERE excluded.due_at < deadlines.due_at"),
		dropDeadline: bulkDelete("deadlines", "job_id text"),
		tags:         bulkInsert("job_tags", "job_id text, tag text, org_id text", ""),
		deliveries: bulkInsert("deliveries",
			"id text, event text, action text, body_sha256 text, received_at bigint, outcome text", ""),
		forgeJobs: bulkInsert("forge_jobs",
			"github_job_id bigint, status text, status_rank bigint, conclusion text, runner_name text, updated_at bigint",
			`ON CONFLICT (github_job_id) DO UPDATE SET status = excluded.status, status_rank = excluded.status_rank,
			conclusion = excluded.conclusion, runner_name = excluded.runner_name, updated_at = excluded.updated_at
			WHERE forge_jobs.status_rank < excluded.status_rank`),
		notices: bulkInsert("notices", "job_id text, due_at bigint, tries bigint, check_id bigint, said text",
			"ON CONFLICT (job_id) DO UPDATE SET due_at = excluded.due_at, tries = 0"),
		repos:    bulkInsert("repos", "id text, org_id text, name text, created_at bigint", ""),
		newFlows: bulkInsert("flows", "id text, parent text, tag bigint, vtime bigint", "ON CONFLICT (id) DO NOTHING"),
		flows: bulkInsert("flows", "id text, parent text, tag bigint, last_start bigint, vtime bigint, expected bigint",
			"ON CONFLICT (id) DO UPDATE SET tag = excluded.tag, last_start = excluded.last_start, vtime = excluded.vtime, "+
				"expected = excluded.expected"),
	}
}

// settled writes what is gathered, so that the next statement sees it.
func (t schedulerTx) settled(ctx context.Context) error {
	if t.books == nil || !t.books.unsaved {
		return nil
	}
	w := &pipeline{tx: t.tx}
	t.flush(w)
	return w.run(ctx)
}

// end writes all that is gathered, before the transaction is committed.
func (t schedulerTx) end(ctx context.Context) error {
	w := &pipeline{tx: t.tx}
	t.flush(w)
	t.countLimits(w)
	return w.run(ctx)
}

// flush writes what is gathered. Rows go in the order of their keys, so that no
// two transactions wait for each other.
func (t schedulerTx) flush(w *pipeline) {
	b, s := t.books, t.tx.flushes
	b.unsaved, b.ahead = false, newAhead()
	w.write("add repos", s.repos, b.newRepos(t.tx.now))
	w.write("add classes", s.classes, b.newClasses())
	b.writeJobs(w, s)
	b.writeAttempts(w, s)
	w.write("keep what attempts used", s.usage, b.newUsages())
	w.write("write the history", s.events, b.events)
	w.write("drop lapsed offers", s.deleteLapsed, b.lapsed)
	b.events, b.lapsed = nil, nil
	w.exact("write the ledger", s.deliveries, b.newDeliveries())
	w.exact("record what GitHub said", s.forgeJobs, b.newForgeJobs())
	w.write("charge flows", s.flows, b.newFlows())
	w.write("have GitHub told", s.notices, b.newNotices())
}

// writeJobs writes the rows of jobs and puts each where its state says.
func (b *books) writeJobs(w *pipeline, s *flushStatements) {
	var inserts, updates, tags, due, over [][]any
	enter, leave := map[string][][]any{}, map[string][][]any{}
	for _, id := range sortedKeys(b.jobs) {
		e := b.jobs[id]
		if !e.inserted && !e.changed {
			continue
		}
		row, err := jobRow(e)
		if err != nil {
			w.err = err
			return
		}
		if e.inserted {
			inserts, tags = append(inserts, row), append(tags, jobTags(&e.now)...)
		} else {
			updates = append(updates, row[:len(s.updateJobs.columns)])
		}
		switch {
		case e.now.State == nimbus.StateFinished:
			over = append(over, []any{id})
		case !e.now.DueAt.IsZero():
			due = append(due, []any{id, micros(e.now.DueAt)})
		}
		if to := placeOf(&e.now); to != e.stored {
			leave[e.stored.table] = append(leave[e.stored.table], []any{id})
			enter[to.table] = append(enter[to.table], to.row(&e.now))
			e.stored = to
		}
		e.inserted, e.changed = false, false
	}
	w.write("add jobs", s.insertJobs, inserts)
	w.write("tag jobs", s.tags, tags)
	w.write("save jobs", s.updateJobs, updates)
	w.write("leave the backlog", s.leaveBacklog, leave["backlog"])
	w.write("leave the queue", s.leaveQueue, leave["queue"])
	w.write("leave the stuck", s.leaveStuck, leave["stuck"])
	w.write("enter the backlog", s.enterBacklog, enter["backlog"])
	w.write("enter the queue", s.enterQueue, enter["queue"])
	w.write("enter the stuck", s.enterStuck, enter["stuck"])
	w.write("set deadlines", s.setDeadline, due)
	w.write("drop deadlines", s.dropDeadline, over)
}

// row is a job's row in the table of its place.
func (p place) row(j *scheduler.JobRecord) []any {
	switch p.table {
	case "backlog":
		return []any{j.ID, p.classID, j.OrgID, j.RepoID, p.priority}
	case "queue":
		return []any{j.ID, p.classID, j.OrgID, p.rank}
	case "stuck":
		return []any{j.ID, p.classID, p.reason}
	}
	return nil
}

func (b *books) writeAttempts(w *pipeline, s *flushStatements) {
	var inserts, updates [][]any
	for _, id := range sortedKeys(b.attempts) {
		e := b.attempts[id]
		if e == nil || !e.inserted && !e.changed {
			continue
		}
		mutable, err := attemptRow(e)
		if err != nil {
			w.err = err
			return
		}
		if e.inserted {
			row := append([]any{id}, mutable...)
			inserts = append(inserts, append(row, e.now.OrgID, e.now.HostID, e.now.Fence, micros(e.now.OfferedAt)))
		} else {
			updates = append(updates, append([]any{id, e.stored}, mutable...))
			e.stored++
		}
		e.inserted, e.changed = false, false
	}
	w.write("add attempts", s.insertAttempts, inserts)
	w.exact("save attempts", s.updateAttempts, updates)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
