-- name: InsertJob :exec
INSERT INTO jobs (id, org_id, repo_id, source, name, repo, labels, class_id, class, any_executor, spec,
                  github_job_id, github, idempotency_key, max_attempts, received_at, admitted_at, state, due_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19);

-- name: JobRow :one
SELECT * FROM jobs WHERE id = $1;

-- name: SaveJob :exec
UPDATE jobs SET class_id = $2, class = $3, state = $4, result = $5, reason_code = $6, reason_message = $7,
       attempt_id = $8, attempt_count = $9, fair_rank = $10, stop_result = $11, stop_code = $12, stop_message = $13,
       due_at = $14, check_at = $15, checks = $16, queued_at = $17, finished_at = $18
WHERE id = $1;

-- name: JobIDByIdempotencyKey :one
SELECT id FROM jobs WHERE org_id = $1 AND idempotency_key = $2 AND idempotency_key <> '';

-- name: JobIDByGitHub :one
SELECT id FROM jobs WHERE github_job_id = $1 AND github_job_id <> 0;

-- name: ViewJob :one
SELECT * FROM job_views WHERE org_id = $1 AND id = $2;

-- name: ViewJobs :many
SELECT * FROM job_views WHERE org_id = $1 AND id < $2
  AND (CAST(sqlc.arg(states) AS TEXT) = '' OR CAST(sqlc.arg(states) AS TEXT) LIKE '%,' || state || ',%')
ORDER BY id DESC LIMIT sqlc.arg(most);

-- name: ViewOpenJobs :many
SELECT * FROM job_views WHERE org_id = $1 AND id < $2 AND state <> 'finished'
  AND CAST(sqlc.arg(states) AS TEXT) LIKE '%,' || state || ',%'
ORDER BY id DESC LIMIT sqlc.arg(most);

-- name: NextEventSeq :one
UPDATE jobs SET event_count = event_count + 1 WHERE id = $1 RETURNING event_count;

-- name: InsertEvent :exec
INSERT INTO job_events (job_id, seq, at, kind, attempt_id, actor, detail) VALUES ($1, $2, $3, $4, $5, $6, $7);

-- name: Events :many
SELECT job_events.* FROM job_events JOIN jobs ON jobs.id = job_events.job_id
WHERE jobs.org_id = $1 AND jobs.id = $2 ORDER BY job_events.seq;

-- name: DueJobs :many
SELECT id FROM jobs WHERE due_at > 0 AND due_at <= $1 ORDER BY due_at LIMIT $2;

-- name: JobsToCheck :many
SELECT id FROM jobs WHERE check_at > 0 AND check_at <= $1 ORDER BY check_at LIMIT $2;
