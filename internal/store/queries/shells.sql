-- name: ShellJob :one
-- What a shell in a job needs of it.
SELECT j.id, j.state AS job_state, a.id AS attempt_id, a.state, a.host_id, a.started_at, a.stop_at, a.expires_at, a.outcome, h.inventory
FROM jobs j JOIN attempts a ON a.id = j.attempt_id JOIN hosts h ON h.id = a.host_id
WHERE j.org_id = $1 AND j.id = $2;

-- name: CountOpenShells :one
SELECT CAST(COALESCE(SUM(CASE WHEN job_id = sqlc.arg(job_id) THEN 1 ELSE 0 END), 0) AS BIGINT) AS of_job, COUNT(*) AS of_org
FROM shells WHERE org_id = sqlc.arg(org_id) AND state <> 'ended';

-- name: InsertShell :exec
INSERT INTO shells (id, org_id, job_id, attempt_id, host_id, actor, came_from, spec, state, opened_at, ends_at, active_at, user_seen_at, host_seen_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'waiting', $9, $10, $9, $9, $9);

-- name: ShellStanding :one
-- With the fence of its lease, 0 for one that does not hold.
SELECT s.*, CAST(COALESCE((SELECT a.fence FROM attempts a WHERE a.id = s.attempt_id AND a.host_id = s.host_id AND a.state = 'live' AND a.expires_at > sqlc.arg(now)), 0) AS BIGINT) AS fence
FROM shells s WHERE s.id = sqlc.arg(id);

-- name: AttachShell :execrows
UPDATE shells SET state = 'open', attached_at = $2, active_at = $2, host_seen_at = $2 WHERE id = $1 AND state = 'waiting';

-- name: SeeShellUser :exec
UPDATE shells SET user_seen_at = $2 WHERE id = $1;

-- name: SeeShellHost :exec
UPDATE shells SET host_seen_at = $2 WHERE id = $1;

-- name: PutShellInput :execrows
UPDATE shells SET in_seq = in_seq + 1, in_bytes = in_bytes + sqlc.arg(size), active_at = sqlc.arg(now), user_seen_at = sqlc.arg(now)
WHERE id = sqlc.arg(id) AND state <> 'ended' AND in_seq = sqlc.arg(before);

-- name: PutShellOutput :execrows
UPDATE shells SET out_seq = out_seq + 1, out_bytes = out_bytes + sqlc.arg(size), active_at = sqlc.arg(now), host_seen_at = sqlc.arg(now)
WHERE id = sqlc.arg(id) AND state <> 'ended' AND out_seq = sqlc.arg(before);

-- name: FreeShellInput :exec
UPDATE shells SET in_bytes = in_bytes - sqlc.arg(size), host_seen_at = sqlc.arg(now) WHERE id = sqlc.arg(id);

-- name: FreeShellOutput :exec
UPDATE shells SET out_bytes = out_bytes - sqlc.arg(size), user_seen_at = sqlc.arg(now) WHERE id = sqlc.arg(id);

-- name: RecordShell :exec
UPDATE shells SET recorded = $2 WHERE id = $1 AND recorded < $2;

-- name: InsertShellBatch :exec
INSERT INTO shell_batches (shell_id, side, seq, body) VALUES ($1, $2, $3, $4);

-- name: ShellBatches :many
SELECT seq, body FROM shell_batches WHERE shell_id = $1 AND side = $2 AND seq > $3 ORDER BY seq LIMIT $4;

-- name: ShellBatchBytes :one
SELECT CAST(COALESCE(SUM(LENGTH(body) + CAST(sqlc.arg(cost) AS BIGINT)), 0) AS BIGINT) FROM shell_batches
WHERE shell_id = sqlc.arg(shell_id) AND side = sqlc.arg(side) AND seq <= sqlc.arg(seq);

-- name: DeleteShellBatches :exec
DELETE FROM shell_batches WHERE shell_id = $1 AND side = $2 AND seq <= $3;

-- name: EndShell :execrows
UPDATE shells SET state = 'ended', ended_at = $2, ending = $3, in_bytes = 0 WHERE id = $1 AND state <> 'ended';

-- name: ForgetShellOutput :exec
UPDATE shells SET out_bytes = 0 WHERE id = $1;

-- name: ShellsOfJob :many
SELECT * FROM shells WHERE org_id = $1 AND job_id = $2 ORDER BY id DESC LIMIT $3;

-- name: ShellsOfHost :many
SELECT id FROM shells WHERE host_id = $1 AND state <> 'ended' LIMIT $2;

-- name: WaitingShells :many
SELECT id, attempt_id, host_id FROM shells WHERE state = 'waiting' ORDER BY id LIMIT $1;

-- name: OpenShells :many
SELECT s.*, CAST(COALESCE((SELECT a.fence FROM attempts a WHERE a.id = s.attempt_id AND a.host_id = s.host_id AND a.state = 'live' AND a.expires_at > sqlc.arg(now)), 0) AS BIGINT) AS fence
FROM shells s WHERE s.state <> 'ended' AND s.id > sqlc.arg(after) ORDER BY s.id LIMIT sqlc.arg(most);

-- name: LeftShells :many
-- Ended ones whose output nobody came for.
SELECT id FROM shells WHERE out_bytes > 0 AND ended_at > 0 AND ended_at < $1 LIMIT $2;
