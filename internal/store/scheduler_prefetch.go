package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// Prefetch implements scheduler.Tx: the rows that many operations are about to
// ask for one by one, in one statement a table and one round trip for all.
func (t schedulerTx) Prefetch(ctx context.Context, k scheduler.Keys) error {
	p := &pipeline{tx: t.tx}
	t.readDeliveries(p, k.Deliveries)
	t.readForgeJobs(p, k.GitHubJobs)
	t.readRepos(p, k.Repos)
	t.lockAll(p, k)
	if err := p.run(ctx); err != nil {
		return fmt.Errorf("read ahead: %w", err)
	}
	return nil
}

// ahead is what was read of the queue for later in a transaction. It holds until
// the transaction writes, or moves the virtual time.
type ahead struct {
	heads   map[string]scheduler.QueueHead // by class
	limits  map[string][]scheduler.Limit   // by org
	virtual *int64
}

func newAhead() ahead {
	return ahead{heads: map[string]scheduler.QueueHead{}, limits: map[string][]scheduler.Limit{}}
}

// PrefetchQueue implements scheduler.Tx.
func (t schedulerTx) PrefetchQueue(ctx context.Context, k scheduler.QueueKeys) error {
	p := &pipeline{tx: t.tx}
	t.readHeads(p, k.Classes)
	if len(k.Orgs) > 0 { // somebody is to be ranked
		p.query("read the virtual time", "SELECT vtime FROM fence", func(row scanner) error {
			t.books.ahead.virtual = new(int64)
			return row.Scan(t.books.ahead.virtual)
		})
	}
	t.lockFlows(p, k.Flows)
	t.readLimits(p, slices.DeleteFunc(k.Orgs, func(id string) bool { _, known := t.books.ahead.limits[id]; return known }))
	if err := p.run(ctx); err != nil {
		return fmt.Errorf("read ahead: %w", err)
	}
	return nil
}

// readHeads reads the heads of queues that are not known.
func (t schedulerTx) readHeads(p *pipeline, classIDs []string) {
	for _, id := range classIDs {
		if _, known := t.books.ahead.heads[id]; !known {
			readHead(p, id, func(h scheduler.QueueHead) { t.books.ahead.heads[id] = h })
		}
	}
}

// lockJobs reads jobs and keeps others from changing them.
func (t schedulerTx) lockJobs(ctx context.Context, ids []string) error {
	ids = slices.DeleteFunc(ids, func(id string) bool { return t.books.jobs[id] != nil })
	p := &pipeline{tx: t.tx}
	t.lockAll(p, scheduler.Keys{Jobs: ids})
	return p.run(ctx)
}

// lockAll locks the jobs that keys are about in the order of their ids, and
// then reads their attempts and those of the keys: what the locks guard.
func (t schedulerTx) lockAll(p *pipeline, k scheduler.Keys) {
	jobs := newKeyed(p, k)
	if jobs.empty() {
		return
	}
	for _, id := range k.GitHubJobs {
		t.books.github[id] = ""
	}
	for _, id := range k.Attempts {
		t.books.attempts[id] = nil
	}
	d := p.tx.dialect
	p.query("lock jobs", "SELECT "+jobColumns+" FROM jobs WHERE "+d.inRows("id", jobs.query)+" ORDER BY id"+d.forUpdate(), t.takeJob, jobs.args...)
	ids := "SELECT attempt_id FROM jobs WHERE " + d.inRows("id", jobs.query)
	args := jobs.args
	if len(k.Attempts) > 0 {
		args = append(slices.Clip(args), p.list(k.Attempts))
		ids += " UNION ALL " + d.values(len(args), "text")
	}
	p.query("read attempts", "SELECT "+attemptColumns+" FROM attempts WHERE "+d.inRows("id", ids)+" ORDER BY id"+d.forUpdate(), t.takeAttempt, args...)
}

// takeJob keeps a row of a job that was locked.
func (t schedulerTx) takeJob(row scanner) error {
	var found gen.Job
	if err := scanJob(row, &found); err != nil || t.books.jobs[found.ID] != nil {
		return err
	}
	return t.hold(found)
}

// takeAttempt keeps a row of an attempt, if its job is locked; one that was
// given to another job since is read when it is asked for.
func (t schedulerTx) takeAttempt(row scanner) error {
	var found gen.Attempt
	if err := scanAttempt(row, &found); err != nil || t.books.attempts[found.ID] != nil {
		return err
	}
	if t.books.jobs[found.JobID] == nil {
		delete(t.books.attempts, found.ID)
		return nil
	}
	return t.holdAttempt(found)
}

// readHeld reads the attempts of locked jobs that were not read with them.
func (t schedulerTx) readHeld(ctx context.Context) error {
	var ids []string
	for _, e := range t.books.jobs {
		if _, known := t.books.attempts[e.now.AttemptID]; !known && e.now.AttemptID != "" {
			ids = append(ids, e.now.AttemptID)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	for _, id := range ids {
		t.books.attempts[id] = nil
	}
	d, p := t.tx.dialect, &pipeline{tx: t.tx}
	p.query("read attempts", "SELECT "+attemptColumns+" FROM attempts WHERE "+d.in("id", 1)+" ORDER BY id"+d.forUpdate(), t.takeAttempt, p.list(ids))
	return p.run(ctx)
}

// keyed are the jobs that keys are about, as a query of their ids.
type keyed struct {
	query string
	args  []any
}

func newKeyed(p *pipeline, k scheduler.Keys) (jobs keyed) {
	d := p.tx.dialect
	var parts []string
	add := func(n int, list any, part func(param int) string) {
		if n > 0 {
			jobs.args = append(jobs.args, p.list(list))
			parts = append(parts, part(len(jobs.args)))
		}
	}
	add(len(k.Jobs), k.Jobs, func(i int) string { return d.values(i, "text") })
	add(len(k.Attempts), k.Attempts, func(i int) string { return "SELECT job_id FROM attempts WHERE " + d.in("id", i) })
	add(len(k.GitHubJobs), k.GitHubJobs, func(i int) string {
		return "SELECT id FROM jobs WHERE " + d.in("github_job_id", i) + " AND github_job_id <> 0"
	})
	jobs.query = strings.Join(parts, " UNION ALL ")
	return jobs
}

func (j keyed) empty() bool { return len(j.args) == 0 }

// list is a list of keys as an argument.
func (p *pipeline) list(keys any) any {
	arg, err := p.tx.dialect.list(keys)
	p.err = errors.Join(p.err, err)
	return arg
}

// query selects by a list of keys; lists are bounded by the size of a batch.
func (t schedulerTx) query(ctx context.Context, text, key string, list any, suffix string) (*sql.Rows, error) {
	arg, err := t.tx.dialect.list(list)
	if err != nil {
		return nil, err
	}
	return t.tx.db.QueryContext(ctx, text+" WHERE "+t.tx.dialect.in(key, 1)+suffix, arg)
}

func (t schedulerTx) readDeliveries(p *pipeline, ids []string) {
	if len(ids) == 0 {
		return
	}
	for _, id := range ids {
		t.books.deliveries[id] = &deliveryEntry{}
	}
	p.query("read the ledger", "SELECT id FROM deliveries WHERE "+p.tx.dialect.in("id", 1), func(row scanner) error {
		var id string
		if err := row.Scan(&id); err != nil {
			return err
		}
		t.books.deliveries[id].known = true
		return nil
	}, p.list(ids))
}

func (t schedulerTx) readForgeJobs(p *pipeline, ids []int64) {
	if len(ids) == 0 {
		return
	}
	for _, id := range ids {
		t.books.forgeJobs[id] = &forgeEntry{}
	}
	p.query("read what GitHub said", "SELECT github_job_id, status_rank FROM forge_jobs WHERE "+p.tx.dialect.in("github_job_id", 1), func(row scanner) error {
		var id, rank int64
		if err := row.Scan(&id, &rank); err != nil {
			return err
		}
		t.books.forgeJobs[id].rank = rank
		return nil
	}, p.list(ids))
}

func (t schedulerTx) readRepos(p *pipeline, names []string) {
	if len(names) == 0 {
		return
	}
	lower := make([]string, len(names))
	for i, name := range names {
		lower[i] = strings.ToLower(name)
	}
	p.query("read repos", "SELECT name, id, org_id FROM repos WHERE "+p.tx.dialect.in("name", 1), func(row scanner) error {
		var name string
		var repo repoEntry
		if err := row.Scan(&name, &repo.id, &repo.orgID); err != nil {
			return err
		}
		t.books.repos[name] = repo
		return nil
	}, p.list(lower))
}

// hold keeps a row that is locked.
func (t schedulerTx) hold(row gen.Job) error {
	j, err := jobRecord(row)
	if err != nil {
		return err
	}
	t.books.jobs[j.ID] = &jobEntry{now: *j, events: row.EventCount, stored: placeOf(j)}
	t.books.classes[j.Class.ID()] = true
	if j.GitHub.JobID != 0 {
		t.books.github[j.GitHub.JobID] = j.ID
	}
	return nil
}

func (t schedulerTx) holdAttempt(row gen.Attempt) error {
	a, err := attempt(row)
	if err != nil {
		return err
	}
	t.books.attempts[row.ID] = &attemptEntry{now: *a, logTotal: row.LogTotal, stored: row.Version}
	return nil
}

// Changes implements scheduler.Tx.
func (t schedulerTx) Changes() int { return t.books.changes }
