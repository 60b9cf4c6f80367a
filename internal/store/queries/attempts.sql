-- name: InsertAttempt :exec
INSERT INTO attempts (id, job_id, org_id, host_id, fence, state, expires_at, offered_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- name: Attempt :one
SELECT * FROM attempts WHERE id = $1;

-- name: OpenAttempts :many
SELECT * FROM attempts WHERE host_id = $1 AND state IN ('offered', 'live') ORDER BY id;

-- name: SaveAttempt :execrows
UPDATE attempts SET version = version + 1, job_id = $3, state = $4, expires_at = $5, stop_at = $6, accepted_at = $7,
       sandbox_ready_at = $8, started_at = $9, running_at = $10, first_output_at = $11, ended_at = $12,
       destroyed_at = $13, runner_name = $14, runner_id = $15, runner_todo = $16, token_todo = $17,
       outcome = $18, exit_code = $19
WHERE id = $1 AND version = $2;

-- name: DeleteLapsed :exec
DELETE FROM attempts WHERE id = $1 AND state = 'lapsed';

-- name: RenewLease :one
UPDATE attempts SET version = version + 1, expires_at = $4
WHERE id = $1 AND host_id = $2 AND fence = $3 AND state = 'live' AND expires_at > $5
RETURNING job_id, stop_at;

-- name: ExpiredAttempts :many
SELECT id FROM attempts WHERE state IN ('offered', 'live') AND expires_at <= $1 ORDER BY expires_at LIMIT $2;

-- name: SetLogTotal :exec
UPDATE attempts SET log_total = $2, log_complete = (log_stored >= $2) WHERE id = $1;

-- name: LogStored :one
UPDATE attempts SET log_stored = $3, log_complete = (log_total >= 0 AND $3 >= log_total)
WHERE id = $1 AND org_id = $2 AND log_stored < $3
RETURNING job_id, log_complete;

-- name: TokenTodos :many
SELECT id, token_todo FROM attempts WHERE token_todo <> '' LIMIT $1;

-- name: TokenDone :exec
UPDATE attempts SET token_todo = '', version = version + 1 WHERE id = $1 AND token_todo = $2;

-- name: RunnersToRemove :many
SELECT id FROM attempts WHERE runner_todo > 0 AND runner_todo <= $1 ORDER BY runner_todo LIMIT $2;
