package store

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// Prefetch implements scheduler.Tx: the rows that many operations are about to
// ask for one by one, in one statement a table.
func (t schedulerTx) Prefetch(ctx context.Context, k scheduler.Keys) error {
	jobs := slices.Clone(k.Jobs)
	for _, read := range []func() error{
		func() error { return t.fetchDeliveries(ctx, k.Deliveries) },
		func() error { return t.fetchForgeJobs(ctx, k.GitHubJobs) },
		func() error { return t.fetchRepos(ctx, k.Repos) },
		func() (err error) { jobs, err = t.fetchGitHub(ctx, k.GitHubJobs, jobs); return err },
		func() (err error) { jobs, err = t.fetchHolders(ctx, k.Attempts, jobs); return err },
		func() error { return t.lockJobs(ctx, jobs) },
		func() error { return t.fetchAttempts(ctx, k.Attempts) },
	} {
		if err := read(); err != nil {
			return fmt.Errorf("read ahead: %w", err)
		}
	}
	return nil
}

// query selects by a list of keys, in chunks of nothing: lists are bounded by
// the size of a batch.
func (t schedulerTx) query(ctx context.Context, text, key string, list any, suffix string) (*sql.Rows, error) {
	condition, arg, err := t.tx.dialect.in(key, list)
	if err != nil {
		return nil, err
	}
	return t.tx.db.QueryContext(ctx, text+" WHERE "+condition+suffix, arg)
}

func (t schedulerTx) fetchDeliveries(ctx context.Context, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	rows, err := t.query(ctx, "SELECT id FROM deliveries", "id", ids, "")
	known, err := texts(rows, err)
	for _, id := range ids {
		t.books.deliveries[id] = &deliveryEntry{known: slices.Contains(known, id)}
	}
	return err
}

func (t schedulerTx) fetchForgeJobs(ctx context.Context, ids []int64) error {
	if len(ids) == 0 {
		return nil
	}
	for _, id := range ids {
		t.books.forgeJobs[id] = &forgeEntry{}
	}
	type status struct{ id, rank int64 }
	rows, err := t.query(ctx, "SELECT github_job_id, status_rank FROM forge_jobs", "github_job_id", ids, "")
	known, err := scanAll(rows, err, func(r *sql.Rows, s *status) error { return r.Scan(&s.id, &s.rank) })
	for _, s := range known {
		t.books.forgeJobs[s.id].rank = s.rank
	}
	return err
}

func (t schedulerTx) fetchRepos(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	lower := make([]string, len(names))
	for i, name := range names {
		lower[i] = strings.ToLower(name)
	}
	type repo struct{ name, id, org string }
	rows, err := t.query(ctx, "SELECT name, id, org_id FROM repos", "name", lower, "")
	known, err := scanAll(rows, err, func(r *sql.Rows, p *repo) error { return r.Scan(&p.name, &p.id, &p.org) })
	for _, p := range known {
		t.books.repos[p.name] = repoEntry{id: p.id, orgID: p.org}
	}
	return err
}

// fetchGitHub learns which of GitHub's jobs are ours, and adds them to jobs.
func (t schedulerTx) fetchGitHub(ctx context.Context, ids []int64, jobs []string) ([]string, error) {
	if len(ids) == 0 {
		return jobs, nil
	}
	for _, id := range ids {
		t.books.github[id] = ""
	}
	type pair struct {
		id    string
		forge int64
	}
	rows, err := t.query(ctx, "SELECT id, github_job_id FROM jobs", "github_job_id", ids, " AND github_job_id <> 0")
	known, err := scanAll(rows, err, func(r *sql.Rows, p *pair) error { return r.Scan(&p.id, &p.forge) })
	for _, p := range known {
		t.books.github[p.forge] = p.id
		jobs = append(jobs, p.id)
	}
	return jobs, err
}

// fetchHolders adds the jobs of attempts to jobs.
func (t schedulerTx) fetchHolders(ctx context.Context, attempts, jobs []string) ([]string, error) {
	if len(attempts) == 0 {
		return jobs, nil
	}
	rows, err := t.query(ctx, "SELECT job_id FROM attempts", "id", attempts, "")
	holders, err := texts(rows, err)
	return append(jobs, holders...), err
}

// lockJobs reads jobs and keeps others from changing them, in the order of
// their ids.
func (t schedulerTx) lockJobs(ctx context.Context, ids []string) error {
	ids = slices.DeleteFunc(ids, func(id string) bool { return t.books.jobs[id] != nil })
	if len(ids) == 0 {
		return nil
	}
	rows, err := t.query(ctx, "SELECT "+jobColumns+" FROM jobs", "id", ids, " ORDER BY id"+t.tx.dialect.forUpdate())
	locked, err := scanAll(rows, err, scanJob)
	if err != nil {
		return fmt.Errorf("lock jobs: %w", err)
	}
	for _, row := range locked {
		if err := t.hold(row); err != nil {
			return err
		}
	}
	return nil
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

// fetchAttempts reads attempts, and the ones that the locked jobs have now.
func (t schedulerTx) fetchAttempts(ctx context.Context, ids []string) error {
	ids = slices.Clone(ids)
	for _, e := range t.books.jobs {
		if e.now.AttemptID != "" {
			ids = append(ids, e.now.AttemptID)
		}
	}
	slices.Sort(ids)
	ids = slices.DeleteFunc(slices.Compact(ids), func(id string) bool { return t.books.attempts[id] != nil })
	if len(ids) == 0 {
		return nil
	}
	for _, id := range ids {
		t.books.attempts[id] = nil
	}
	rows, err := t.query(ctx, "SELECT "+attemptColumns+" FROM attempts", "id", ids, " ORDER BY id"+t.tx.dialect.forUpdate())
	found, err := scanAll(rows, err, scanAttempt)
	if err != nil {
		return err
	}
	for _, row := range found {
		if t.books.jobs[row.JobID] == nil { // given to another job since: read when asked for
			delete(t.books.attempts, row.ID)
			continue
		}
		if err := t.holdAttempt(row); err != nil {
			return err
		}
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
