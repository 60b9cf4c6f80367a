package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// historyChunk is how many jobs are added at once, so that there is progress.
const historyChunk = 250_000

// addHistory adds n finished jobs of half a year, each with an attempt and the
// first and last entries of its history, as they are long after: the other
// tables hold what is younger. Ids are in the order of time, as real ones.
func addHistory(ctx context.Context, database string, n int) error {
	db, err := pgx.Connect(ctx, database)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer db.Close(context.WithoutCancel(ctx))
	began := time.Now()
	for done := 0; done < n; done += historyChunk {
		last := min(done+historyChunk, n)
		for _, text := range []string{historyJobs, historyAttempts, historyEvents} {
			if _, err := db.Exec(ctx, text, done+1, last, n); err != nil {
				return fmt.Errorf("add to the history: %w", err)
			}
		}
		progress("history: %d of %d jobs, %.0f s", last, n, time.Since(began).Seconds())
	}
	if _, err := db.Exec(ctx, "VACUUM (ANALYZE) jobs, attempts, job_events"); err != nil {
		return fmt.Errorf("vacuum: %w", err)
	}
	return nil
}

const (
	historyID = "lpad(to_hex(i), 26, '0')"
	historyAt = "(nimbus_now() - 15552000000000 / $3::bigint * ($3::bigint - i + 1))"
	series    = " FROM generate_series($1::bigint, $2::bigint) AS i"

	historyJobs = `INSERT INTO jobs (id, org_id, repo_id, source, name, repo, labels, class_id, class, any_executor, spec, github_job_id, github,
		idempotency_key, max_attempts, received_at, admitted_at, state, result, attempt_id, attempt_count, queued_at, finished_at, event_count)
		SELECT 'job_' || ` + historyID + `, '` + floorOrg + `', (SELECT id FROM repos ORDER BY id OFFSET i % 20 LIMIT 1), 'github', 'job-' || i,
		'octo-org/repo-' || (i % 20), '["nimbus"]', (SELECT id FROM classes LIMIT 1), (SELECT spec FROM classes LIMIT 1), true, '{}', -i, '` + floorGitHub + `',
		'', 3, ` + historyAt + `, ` + historyAt + `, 'finished', CASE WHEN i % 10 = 0 THEN 'failure' ELSE 'success' END, 'att_' || ` + historyID + `, 1, ` +
		historyAt + `, ` + historyAt + ` + 60000000, 7` + series

	historyAttempts = `INSERT INTO attempts (id, job_id, org_id, host_id, fence, version, state, expires_at, offered_at, accepted_at, running_at, ended_at,
		destroyed_at, runner_name, outcome, exit_code, log_total, log_stored, log_complete)
		SELECT 'att_' || ` + historyID + `, 'job_' || ` + historyID + `, '` + floorOrg + `', (SELECT id FROM hosts LIMIT 1), -i - (1::bigint << 60), 5, 'ended', ` +
		historyAt + `, ` + historyAt + `, ` + historyAt + `, ` + historyAt + `, ` + historyAt + `, ` + historyAt + `, 'nimbus-att_' || ` + historyID +
		`, '{"Result":"success"}', 0, 100, 100, $3::bigint > 0` + series

	historyEvents = `INSERT INTO job_events (job_id, seq, at, kind, attempt_id, actor, detail)
		SELECT 'job_' || ` + historyID + `, s, ` + historyAt + `, CASE s WHEN 1 THEN 'pending' ELSE 'finished' END, '', 'github', ''` + series +
		`, generate_series(1, 2) AS s`
)
