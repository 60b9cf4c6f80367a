-- name: Attempt :one
SELECT * FROM attempts WHERE id = $1;

-- name: ExpiredAttempts :many
SELECT id FROM attempts WHERE state IN ('offered', 'live') AND expires_at <= $1 ORDER BY expires_at LIMIT $2;

-- name: LogStored :one
UPDATE attempts SET log_stored = $3, log_complete = (log_total >= 0 AND $3 >= log_total)
WHERE id = $1 AND org_id = $2 AND log_stored < $3
RETURNING job_id, log_complete;

-- name: RunnersToRemove :many
SELECT id FROM attempts WHERE runner_todo > 0 AND runner_todo <= $1 ORDER BY runner_todo LIMIT $2;

-- name: JobOfAttempt :one
SELECT job_id FROM attempts WHERE id = $1 AND org_id = $2;

-- name: AttemptByToken :one
SELECT id, org_id FROM attempts
WHERE token_hash = $1 AND token_hash <> '' AND state = 'live' AND running_at > 0 AND expires_at > $2;
