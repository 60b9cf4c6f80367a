-- name: LogAcked :one
SELECT CAST(COALESCE(MAX(last_seq), 0) AS BIGINT) FROM log_pages WHERE attempt_id = $1 AND org_id = $2;

-- name: InsertLogPage :exec
INSERT INTO log_pages (attempt_id, first_seq, last_seq, org_id, lines) VALUES ($1, $2, $3, $4, $5);

-- name: LogPages :many
SELECT lines FROM log_pages WHERE attempt_id = $1 AND org_id = $2 AND last_seq >= $3 ORDER BY first_seq LIMIT $4;

-- name: LogBytes :one
SELECT CAST(COALESCE(SUM(LENGTH(lines)), 0) AS BIGINT) FROM log_pages WHERE attempt_id = $1;

-- name: DeleteLog :exec
DELETE FROM log_pages WHERE attempt_id = $1 AND org_id = $2;
