-- name: JobRow :one
SELECT * FROM jobs WHERE id = $1;

-- name: JobIDByIdempotencyKey :one
SELECT id FROM jobs WHERE org_id = $1 AND idempotency_key = $2 AND idempotency_key <> '';

-- name: JobIDByGitHub :one
SELECT id FROM jobs WHERE github_job_id = $1 AND github_job_id <> 0;

-- name: RepoByName :one
SELECT id FROM repos WHERE name = $1;

-- name: Events :many
SELECT job_events.* FROM job_events JOIN jobs ON jobs.id = job_events.job_id
WHERE jobs.org_id = $1 AND jobs.id = $2 AND job_events.seq > $3 ORDER BY job_events.seq LIMIT $4;

-- name: JobsToCheck :many
SELECT id FROM jobs WHERE check_at > 0 AND check_at <= $1 ORDER BY check_at LIMIT $2;

-- name: DueJobs :many
SELECT job_id FROM deadlines WHERE due_at <= $1 ORDER BY due_at LIMIT $2;

-- name: MoveDeadline :exec
UPDATE deadlines SET due_at = $2 WHERE job_id = $1;

-- name: DropDeadline :exec
DELETE FROM deadlines WHERE job_id = $1;
