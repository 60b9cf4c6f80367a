package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// The floor is what a cycle leaves in the database, written by the statements
// that write it, in batches, with no HTTP, no tokens, no signatures, no
// messages and no decisions: five transactions for each batch of jobs, with the
// reads that lock and look up. Nothing that keeps the promises costs less.
const (
	floorBatch   = 16 // jobs that share a transaction, as they do at inFlight cycles
	floorWorkers = 4
)

// floorRun is one batch of the floor.
type floorRun struct {
	ids, attempts, deliveries, endings []string
	numbers                            []int64
}

// newFloorRun makes a batch of jobs with the numbers from first on.
func newFloorRun(first int64) floorRun {
	var r floorRun
	for i := range floorBatch {
		n := first + int64(i)
		r.ids = append(r.ids, fmt.Sprintf("job_floor%021d", n))
		r.attempts = append(r.attempts, fmt.Sprintf("att_floor%021d", n))
		r.deliveries = append(r.deliveries, fmt.Sprintf("floor-q-%d", n))
		r.endings = append(r.endings, fmt.Sprintf("floor-c-%d", n))
		r.numbers = append(r.numbers, n)
	}
	return r
}

// floor runs batches until n jobs are done, and returns jobs a second.
func floor(ctx context.Context, database string, n int) (float64, error) {
	cfg, err := pgxpool.ParseConfig(database)
	if err != nil {
		return 0, fmt.Errorf("parse the database's URL: %w", err)
	}
	cfg.MaxConns = floorWorkers
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return 0, fmt.Errorf("connect for the floor: %w", err)
	}
	defer pool.Close()
	host, class, err := floorSetup(ctx, pool)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	// Numbers that neither a job of GitHub's has nor an earlier floor: a job
	// takes longer than a microsecond.
	first := 1<<60 + began.UnixMicro()
	var workers sync.WaitGroup
	errs := make(chan error, floorWorkers)
	for worker := range floorWorkers {
		workers.Go(func() {
			for batch := range n / floorBatch / floorWorkers {
				if err := newFloorRun(first+int64((batch*floorWorkers+worker)*floorBatch)).cycle(ctx, pool, host, class, worker); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	workers.Wait()
	took := time.Since(began)
	select {
	case err := <-errs:
		return 0, fmt.Errorf("floor: %w", err)
	default:
	}
	done := n / floorBatch / floorWorkers * floorBatch * floorWorkers
	return float64(done) / took.Seconds(), nil
}

// floorSetup finds what the rows refer to.
func floorSetup(ctx context.Context, pool *pgxpool.Pool) (host, class string, err error) {
	err = pool.QueryRow(ctx, "SELECT (SELECT id FROM hosts LIMIT 1), (SELECT id FROM classes LIMIT 1)").Scan(&host, &class)
	if err != nil {
		return "", "", fmt.Errorf("find a host and a class: %w", err)
	}
	return host, class, nil
}

const (
	floorOrg = "org_00000000000000000000000000"
	floorNow = "nimbus_now()"
	events   = "INSERT INTO job_events (job_id, seq, at, kind, attempt_id, actor, detail) SELECT unnest($1::text[]), %d, " + floorNow + ", '%s', '', 'system', ''"
)

// cycle takes a batch of jobs from their webhooks to their ends.
func (r floorRun) cycle(ctx context.Context, pool *pgxpool.Pool, host, class string, worker int) error {
	flow := fmt.Sprintf("floor-%d", worker)
	for _, tx := range [][]statement{r.admit(class, flow), r.claim(class, host), r.accept(), r.complete(flow), r.finish()} {
		if err := pgx.BeginFunc(ctx, pool, func(t pgx.Tx) error {
			for _, s := range tx {
				rows, err := t.Query(ctx, s.text, s.args...)
				if err != nil {
					return err
				}
				rows.Close()
				if err := rows.Err(); err != nil {
					return fmt.Errorf("%.60s: %w", s.text, err)
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

type statement struct {
	text string
	args []any
}

func say(text string, args ...any) statement { return statement{text, args} }

// known is what is read of a delivery before it has an effect.
func (r floorRun) known(deliveries []string) []statement {
	return []statement{
		say("SELECT " + floorNow),
		say("SELECT id FROM deliveries WHERE id = ANY($1)", deliveries),
		say("SELECT github_job_id, status_rank FROM forge_jobs WHERE github_job_id = ANY($1)", r.numbers),
		say("SELECT name, id, org_id FROM repos WHERE name = ANY($1)", []string{"octo-org/repo-1"}),
		say("SELECT id, github_job_id FROM jobs WHERE github_job_id = ANY($1) AND github_job_id <> 0", r.numbers),
	}
}

func (r floorRun) admit(class, flow string) []statement {
	return append(r.known(r.deliveries),
		say("SELECT count(*) FROM queue WHERE class_id = $1", class+"-floor"),
		say("SELECT vtime FROM fence"),
		say("SELECT id, tag, vtime, weight, expected FROM flows WHERE id = ANY($1) FOR UPDATE", []string{flow}),
		say(`INSERT INTO jobs (id, org_id, repo_id, source, name, repo, labels, class_id, class, any_executor, spec, github_job_id, github,
			idempotency_key, max_attempts, received_at, admitted_at, state, queued_at, due_at, event_count, limit_keys, metadata)
			SELECT id, '`+floorOrg+`', '', 'github', 'job', 'octo-org/repo-1', '["nimbus"]', $3, '{}', false, '{}', n, $4, '', 3,
			`+floorNow+`, `+floorNow+`, 'queued', `+floorNow+`, `+floorNow+`, 2, '', '' FROM unnest($1::text[], $2::bigint[]) AS v (id, n)`,
			r.ids, r.numbers, class, floorGitHub),
		say(fmt.Sprintf(events, 1, "pending"), r.ids),
		say(fmt.Sprintf(events, 2, "queued"), r.ids),
		say("INSERT INTO queue (job_id, class_id, org_id, fair_rank) SELECT unnest($1::text[]), $2, '"+floorOrg+"', 1", r.ids, class+"-floor"),
		say("INSERT INTO deadlines (job_id, due_at) SELECT unnest($1::text[]), "+floorNow+" + 86400000000", r.ids),
		r.ledger(r.deliveries), r.told("queued", 2), charge(flow),
	)
}

// floorGitHub is as long as what is kept of a job of GitHub's.
const floorGitHub = `{"InstallationID":1,"Owner":"octo-org","Repo":"repo-1","JobID":987654321098765,"RunID":940463255,"RunAttempt":1,` +
	`"WorkflowName":"CI","HeadBranch":"main","HeadSHA":"e3103f8eb03e1ad7f2331c5446b23c070fc54055","HTMLURL":"https://github.com/octo-org/repo-1/runs/2832853555"}`

func (r floorRun) ledger(deliveries []string) statement {
	return say("INSERT INTO deliveries (id, event, action, body_sha256, received_at, outcome) SELECT unnest($1::text[]), 'workflow_job', 'queued', "+
		"'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', "+floorNow+", 'accepted'", deliveries)
}

func (r floorRun) told(status string, rank int) statement {
	return say("INSERT INTO forge_jobs (github_job_id, status, status_rank, conclusion, runner_name, updated_at) SELECT unnest($1::bigint[]), $2, $3, '', '', "+
		floorNow+" ON CONFLICT (github_job_id) DO UPDATE SET status = excluded.status, status_rank = excluded.status_rank", r.numbers, status, rank)
}

func charge(flow string) statement {
	return say("INSERT INTO flows (id, parent, tag, vtime, expected) VALUES ($1, '', 1, 1, 1) ON CONFLICT (id) DO UPDATE SET tag = flows.tag + 1", flow)
}

const floorTop = `queue q JOIN jobs j ON j.id = q.job_id WHERE q.class_id = $1 AND j.state = 'queued' AND q.job_id = ANY($2)
	ORDER BY q.fair_rank, q.job_id LIMIT 64 FOR UPDATE OF j SKIP LOCKED`

func (r floorRun) claim(class, host string) []statement {
	return []statement{
		say("SELECT " + floorNow),
		say("SELECT j.* FROM "+floorTop, class+"-floor", r.ids), //nolint:unqueryvet // all, as the claim reads them
		say("UPDATE fence SET last = last + $1 RETURNING last", floorBatch),
		say(`INSERT INTO attempts (id, job_id, org_id, host_id, fence, state, expires_at, offered_at)
			SELECT a, j, '`+floorOrg+`', $3, -n, 'offered', `+floorNow+` + 3000000, `+floorNow+` FROM unnest($1::text[], $2::text[], $4::bigint[]) AS v (a, j, n)`,
			r.attempts, r.ids, host, r.numbers),
		r.move("offered"),
		say("DELETE FROM queue WHERE job_id = ANY($1)", r.ids),
		say(fmt.Sprintf(events, 3, "offered"), r.ids),
	}
}

func (r floorRun) move(state string) statement {
	return say("UPDATE jobs SET state = $2, attempt_count = 1, event_count = event_count + 1, due_at = "+floorNow+" WHERE id = ANY($1)", r.ids, state)
}

// held is what is locked of jobs before they are changed.
func (r floorRun) held() []statement {
	return []statement{
		say("SELECT job_id FROM attempts WHERE id = ANY($1)", r.attempts),
		say("SELECT * FROM jobs WHERE id = ANY($1) ORDER BY id FOR UPDATE", r.ids),          //nolint:unqueryvet // all, as they are read
		say("SELECT * FROM attempts WHERE id = ANY($1) ORDER BY id FOR UPDATE", r.attempts), //nolint:unqueryvet // the same
	}
}

func (r floorRun) attempt(set string) statement {
	return say("UPDATE attempts SET version = version + 1, "+set+" WHERE id = ANY($1)", r.attempts)
}

func (r floorRun) accept() []statement {
	return append(append([]statement{say("SELECT " + floorNow)}, r.held()...),
		r.attempt("state = 'live', accepted_at = "+floorNow+", expires_at = "+floorNow+" + 30000000, token_hash = id"),
		r.move("accepted"),
		say(fmt.Sprintf(events, 4, "accepted"), r.ids),
	)
}

func (r floorRun) complete(flow string) []statement {
	return append(append(r.known(r.endings), r.held()...),
		r.attempt("running_at = "+floorNow+", stop_at = "+floorNow),
		say("UPDATE jobs SET state = 'finished', result = 'success', finished_at = "+floorNow+", event_count = event_count + 2 WHERE id = ANY($1)", r.ids),
		say(fmt.Sprintf(events, 5, "running"), r.ids),
		say(fmt.Sprintf(events, 6, "finished"), r.ids),
		say("DELETE FROM deadlines WHERE job_id = ANY($1)", r.ids),
		r.ledger(r.endings), r.told("completed", 4), charge(flow),
	)
}

func (r floorRun) finish() []statement {
	return append(append([]statement{say("SELECT " + floorNow)}, r.held()...),
		r.attempt("state = 'ended', ended_at = "+floorNow+", outcome = '{}', token_hash = ''"),
		say(fmt.Sprintf(events, 7, "exited"), r.ids),
		say("UPDATE jobs SET event_count = event_count + 1 WHERE id = ANY($1)", r.ids),
	)
}
