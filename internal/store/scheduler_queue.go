package store

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// Claim implements scheduler.Tx.
func (t schedulerTx) Claim(ctx context.Context, classIDs []string, n int) ([]*scheduler.JobRecord, error) {
	if err := t.settled(ctx); err != nil {
		return nil, err
	}
	claim, err := t.tx.dialect.claim(classIDs, n)
	if err != nil {
		return nil, fmt.Errorf("claim: %w", err)
	}
	var locked []gen.Job
	p := &pipeline{tx: t.tx}
	p.query("claim", claim.text, func(row scanner) error {
		var j gen.Job
		err := scanJob(row, &j)
		locked = append(locked, j)
		return err
	}, claim.args...)
	t.readHeads(p, classIDs) // their windows are filled next
	if err := p.run(ctx); err != nil {
		return nil, err
	}
	jobs, err := t.keep(locked)
	if err != nil {
		return nil, fmt.Errorf("claim: %w", err)
	}
	return jobs, t.readHeld(ctx)
}

// NextPending implements scheduler.Tx. What the transaction has gathered needs
// not be written before: the jobs that it took away from a flow are asked for
// too, and left out.
func (t schedulerTx) NextPending(ctx context.Context, classID string, from []scheduler.Behind, n int) ([]*scheduler.JobRecord, error) {
	if len(from) == 0 {
		return nil, nil
	}
	most := make([]int64, len(from))
	for i, f := range from {
		most[i] = int64(n + t.books.taken(classID, f))
	}
	found, err := t.tx.dialect.nextPending(ctx, t.tx, classID, from, most)
	if err != nil {
		return nil, fmt.Errorf("read the backlog: %w", err)
	}
	counts := map[scheduler.Waiting]int{}
	found = slices.DeleteFunc(found, func(row gen.Job) bool {
		if e := t.books.jobs[row.ID]; e != nil && placeOf(&e.now) != e.stored {
			return true
		}
		w := scheduler.Waiting{Flow: scheduler.Flow{OrgID: row.OrgID, RepoID: row.RepoID}, Priority: int(row.Priority)}
		counts[w]++
		return counts[w] > n
	})
	return t.keep(found)
}

// taken counts the jobs behind a place of a flow that the backlog has only
// because what moved them is not written yet.
func (b *books) taken(classID string, f scheduler.Behind) (n int) {
	for id, e := range b.jobs {
		if e.stored.table == "backlog" && e.stored.classID == classID && int(e.stored.priority) == f.Priority &&
			e.now.OrgID == f.OrgID && e.now.RepoID == f.RepoID && id > f.JobID && placeOf(&e.now) != e.stored {
			n++
		}
	}
	return n
}

// QueuedOf implements scheduler.Tx.
func (t schedulerTx) QueuedOf(ctx context.Context, orgID string, n int) ([]*scheduler.JobRecord, error) {
	if err := t.settled(ctx); err != nil {
		return nil, err
	}
	rows, err := t.tx.dialect.queuedOf(ctx, t.tx, orgID, n)
	jobs, err := t.take(rows, err)
	if err != nil {
		return nil, fmt.Errorf("read the queued jobs of an org: %w", err)
	}
	return jobs, nil
}

// take keeps rows that a statement has locked.
func (t schedulerTx) take(rows *sql.Rows, err error) ([]*scheduler.JobRecord, error) {
	locked, err := scanAll(rows, err, scanJob)
	if err != nil {
		return nil, err
	}
	return t.keep(locked)
}

func (t schedulerTx) keep(locked []gen.Job) ([]*scheduler.JobRecord, error) {
	jobs := make([]*scheduler.JobRecord, 0, len(locked))
	for _, row := range locked {
		if t.books.jobs[row.ID] == nil {
			if err := t.hold(row); err != nil {
				return nil, err
			}
		}
		jobs = append(jobs, clone(&t.books.jobs[row.ID].now))
	}
	return jobs, nil
}

// readHead reads how many jobs of a class hosts can claim, the highest rank
// among them, and whether there are more behind.
func readHead(p *pipeline, classID string, take func(scheduler.QueueHead)) {
	p.query("read the head of the queue", `SELECT (SELECT COUNT(*) FROM queue WHERE queue.class_id = $1),
		(SELECT COALESCE(MAX(queue.fair_rank), 0) FROM queue WHERE queue.class_id = $1),
		EXISTS (SELECT 1 FROM backlog WHERE backlog.class_id = $1)`,
		func(row scanner) error {
			var h scheduler.QueueHead
			err := row.Scan(&h.Length, &h.Highest, &h.Backlog)
			take(h)
			return err
		}, classID)
}

// QueueHead implements scheduler.Tx. What the transaction has moved and not
// written yet is counted as if it were.
func (t schedulerTx) QueueHead(ctx context.Context, classID string) (scheduler.QueueHead, error) {
	h, known := t.books.ahead.heads[classID]
	if !known {
		p := &pipeline{tx: t.tx}
		readHead(p, classID, func(read scheduler.QueueHead) { h = read })
		if err := p.run(ctx); err != nil {
			return h, err
		}
	}
	for _, e := range t.books.jobs {
		to := placeOf(&e.now)
		if e.stored == to {
			continue
		}
		if e.stored.table == "queue" && e.stored.classID == classID {
			h.Length--
		}
		if to.table == "queue" && to.classID == classID {
			h.Length++
			h.Highest = max(h.Highest, to.rank)
		}
	}
	return h, nil
}

// Newcomers implements scheduler.Tx.
func (t schedulerTx) Newcomers(classID string) (jobs []*scheduler.JobRecord) {
	for _, id := range sortedKeys(t.books.jobs) {
		e := t.books.jobs[id]
		to := placeOf(&e.now)
		if to.table == "backlog" && to.classID == classID && to != e.stored {
			jobs = append(jobs, clone(&e.now))
		}
	}
	return jobs
}

// QueuedClasses implements scheduler.Reader.
func (t schedulerTx) QueuedClasses(ctx context.Context) ([]string, error) {
	if err := t.settled(ctx); err != nil {
		return nil, err
	}
	return t.tx.QueuedClasses(ctx)
}

// Classes implements scheduler.Reader.
func (t schedulerTx) Classes(ctx context.Context, ids []string) ([]nimbus.Class, error) {
	rows, err := t.query(ctx, "SELECT spec FROM classes", "id", ids, "")
	return classes(texts(rows, err))
}

// WaitingClasses implements scheduler.Reader.
func (t schedulerTx) WaitingClasses(ctx context.Context) ([]nimbus.Class, error) {
	if err := t.settled(ctx); err != nil {
		return nil, err
	}
	return classes(t.tx.WaitingClasses(ctx))
}

// WaitingJobs implements scheduler.Tx.
func (t schedulerTx) WaitingJobs(ctx context.Context, classID string, most int) ([]string, error) {
	if err := t.settled(ctx); err != nil {
		return nil, err
	}
	return t.tx.WaitingJobs(ctx, gen.WaitingJobsParams{ClassID: classID, Limit: int32(most)})
}

// StuckJobs implements scheduler.Tx.
func (t schedulerTx) StuckJobs(ctx context.Context, classID string, code nimbus.ReasonCode, most int) ([]string, error) {
	if err := t.settled(ctx); err != nil {
		return nil, err
	}
	return t.tx.StuckJobs(ctx, gen.StuckJobsParams{ClassID: classID, ReasonCode: string(code), Limit: int32(most)})
}

// Backlog implements scheduler.Tx: as it is in the database.
func (t schedulerTx) Backlog(ctx context.Context, classID string) ([]scheduler.Waiting, error) {
	rows, err := t.tx.BacklogFlows(ctx, classID)
	waiting := make([]scheduler.Waiting, len(rows))
	for i, r := range rows {
		waiting[i] = scheduler.Waiting{Flow: scheduler.Flow{OrgID: r.OrgID, RepoID: r.RepoID}, Priority: int(r.Priority)}
	}
	return waiting, err
}

// flowEntry is a flow's tag that is locked.
type flowEntry struct {
	now     scheduler.FlowTag
	parent  string
	changed bool
}

// FlowTags implements scheduler.Tx.
func (t schedulerTx) FlowTags(ctx context.Context, ids []string) (map[string]scheduler.FlowTag, error) {
	p := &pipeline{tx: t.tx}
	t.lockFlows(p, ids)
	if err := p.run(ctx); err != nil {
		return nil, err
	}
	tags := make(map[string]scheduler.FlowTag, len(ids))
	for _, id := range ids {
		tags[id] = t.books.flows[id].now
	}
	return tags, nil
}

// lockFlows reads the tags of flows that are not locked yet, in the order of
// their ids. A flow that is not there can't be locked: those that may be new are
// added before, so that nobody else is just adding them too.
func (t schedulerTx) lockFlows(p *pipeline, ids []string) {
	missing := make([]string, 0, len(ids))
	var added [][]any
	for _, id := range ids {
		if t.books.flows[id] != nil {
			continue
		}
		missing = append(missing, id)
		t.books.flows[id] = &flowEntry{now: scheduler.FlowTag{Weight: scheduler.DefaultWeight}}
		if !t.tx.seen.has(id) {
			parent, _, nested := strings.Cut(id, "/")
			if !nested {
				parent = ""
			}
			added = append(added, []any{id, parent, int64(0), int64(0)})
		}
	}
	if len(missing) == 0 {
		return
	}
	p.write("add flows", t.tx.flushes.newFlows, added)
	p.query("read the tags of flows", selectFlows+" WHERE "+p.tx.dialect.in("id", 1)+" ORDER BY id"+p.tx.dialect.forUpdate(), func(row scanner) error {
		var v flowRow
		if err := scanFlow(row, &v); err != nil {
			return err
		}
		t.books.flows[v.id].now = v.tag
		return nil
	}, p.list(missing))
}

// seenFlows are flows that are in the table, as far as a process remembers.
type seenFlows struct {
	mu  sync.Mutex
	ids map[string]struct{}
}

// maxSeenFlows bounds it; past it the memory begins anew.
const maxSeenFlows = 100_000

func (s *seenFlows) has(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.ids[id]
	return ok
}

// add remembers the flows that a transaction has locked, once that is committed.
func (s *seenFlows) add(flows map[string]*flowEntry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ids) >= maxSeenFlows {
		clear(s.ids)
	}
	for id := range flows {
		s.ids[id] = struct{}{}
	}
}

// flowRow is a flow's tag with its id.
type flowRow struct {
	id  string
	tag scheduler.FlowTag
}

const selectFlows = "SELECT id, tag, last_start, vtime, weight, expected FROM flows"

func scanFlow(r scanner, v *flowRow) error {
	return r.Scan(&v.id, &v.tag.Finish, &v.tag.Start, &v.tag.Virtual, &v.tag.Weight, &v.tag.Expected)
}

// SaveFlowTag implements scheduler.Tx.
func (t schedulerTx) SaveFlowTag(ctx context.Context, id, parent string, tag scheduler.FlowTag) error {
	if _, err := t.FlowTags(ctx, []string{id}); err != nil {
		return err
	}
	*t.books.flows[id] = flowEntry{now: tag, parent: parent, changed: true}
	t.books.touch()
	return nil
}

func (b *books) newFlows() (rows [][]any) {
	for _, id := range sortedKeys(b.flows) {
		if e := b.flows[id]; e.changed {
			rows = append(rows, []any{id, e.parent, e.now.Finish, e.now.Start, e.now.Virtual, e.now.Expected})
			e.changed = false
		}
	}
	return rows
}

// VirtualTime implements scheduler.Reader.
func (t schedulerTx) VirtualTime(ctx context.Context) (int64, error) {
	if t.books != nil && t.books.ahead.virtual != nil {
		return *t.books.ahead.virtual, nil
	}
	return t.tx.VirtualTime(ctx)
}

// DueJobs implements scheduler.Reader.
func (t schedulerTx) DueJobs(ctx context.Context, most int) ([]string, error) {
	return t.tx.DueJobs(ctx, gen.DueJobsParams{DueAt: t.nowMicros(), Limit: int32(most)})
}

// JobsToCheck implements scheduler.Reader.
func (t schedulerTx) JobsToCheck(ctx context.Context, most int) ([]string, error) {
	return t.tx.JobsToCheck(ctx, gen.JobsToCheckParams{CheckAt: t.nowMicros(), Limit: int32(most)})
}
