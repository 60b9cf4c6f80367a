-- name: LogAcked :one
SELECT CAST(COALESCE(MAX(last_seq), 0) AS BIGINT) FROM log_pages WHERE attempt_id = $1 AND org_id = $2;

-- name: InsertLogPage :exec
INSERT INTO log_pages (
    attempt_id, first_seq, last_seq, org_id, lines, format, text_bytes, first_at, last_at, debug_lines, info_lines, warn_lines, error_lines, max_level
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14);

-- name: LogPages :many
SELECT format, first_seq, last_seq, lines FROM log_pages WHERE attempt_id = $1 AND org_id = $2 AND last_seq >= $3 ORDER BY first_seq LIMIT $4;

-- name: LogPage :many
SELECT format, lines FROM log_pages WHERE attempt_id = $1 AND org_id = $2 AND first_seq = $3;

-- name: LogPagesOfBefore :many
SELECT lines FROM log_pages WHERE attempt_id = $1 AND org_id = $2 AND format = 0 AND first_seq > $3 ORDER BY first_seq LIMIT 1;

-- name: LogPagesWith :many
SELECT format, first_seq, last_seq, lines FROM log_pages
WHERE attempt_id = $1 AND org_id = $2 AND last_seq >= $3
  AND (format = 0 OR max_level >= $4 AND last_at >= $5 AND first_at < $6)
ORDER BY first_seq LIMIT $7;

-- name: LogBytes :one
SELECT CAST(COALESCE(SUM(LENGTH(lines)), 0) AS BIGINT) FROM log_pages WHERE attempt_id = $1;

-- name: LogCounts :one
SELECT CAST(COALESCE(SUM(last_seq - first_seq + 1), 0) AS BIGINT) AS lines,
       CAST(COALESCE(SUM(text_bytes), 0) AS BIGINT) AS text_bytes,
       CAST(COALESCE(MIN(first_at), 0) AS BIGINT) AS first_at,
       CAST(COALESCE(MAX(last_at), 0) AS BIGINT) AS last_at,
       CAST(COALESCE(SUM(debug_lines), 0) AS BIGINT) AS debug_lines,
       CAST(COALESCE(SUM(info_lines), 0) AS BIGINT) AS info_lines,
       CAST(COALESCE(SUM(warn_lines), 0) AS BIGINT) AS warn_lines,
       CAST(COALESCE(SUM(error_lines), 0) AS BIGINT) AS error_lines
FROM log_pages WHERE attempt_id = $1 AND org_id = $2 AND format > 0;

-- name: LogsAfter :many
SELECT DISTINCT attempt_id FROM log_pages
WHERE org_id = $1 AND attempt_id > $2 AND attempt_id < 'atu' ORDER BY attempt_id LIMIT $3;

-- name: LogsBelow :many
SELECT DISTINCT attempt_id FROM log_pages
WHERE org_id = $1 AND attempt_id > 'att_' AND attempt_id < $2 ORDER BY attempt_id DESC LIMIT $3;

-- name: DeleteLog :exec
DELETE FROM log_pages WHERE attempt_id = $1 AND org_id = $2;

-- name: DeleteLogFromOutbox :exec
DELETE FROM log_outbox WHERE attempt_id = $1 AND org_id = $2;

-- name: InsertLogOutbox :exec
INSERT INTO log_outbox (attempt_id, first_seq, org_id, text_bytes, added_at) VALUES ($1, $2, $3, $4, $5);

-- name: LogOutboxBatch :one
SELECT CAST(COALESCE(MIN(batch), 0) AS BIGINT) AS oldest FROM log_outbox WHERE batch > 0;

-- name: LogOutboxNewestBatch :one
SELECT CAST(COALESCE(MAX(batch), 0) AS BIGINT) AS newest FROM log_outbox;

-- name: LogOutboxPages :many
SELECT attempt_id, first_seq, org_id, text_bytes FROM log_outbox WHERE batch = $1 ORDER BY added_at, attempt_id, first_seq LIMIT $2;

-- name: AssignLogOutbox :exec
UPDATE log_outbox SET batch = $3 WHERE attempt_id = $1 AND first_seq = $2;

-- name: ShipLogOutbox :exec
DELETE FROM log_outbox WHERE batch > 0 AND batch <= $1;

-- name: LogOutboxLag :one
SELECT CAST(COALESCE(SUM(text_bytes), 0) AS BIGINT) AS text_bytes, CAST(COALESCE(MIN(added_at), 0) AS BIGINT) AS oldest FROM log_outbox;

-- name: LogRetention :many
SELECT org_id, days FROM log_retention WHERE org_id = $1 OR org_id = '' ORDER BY org_id DESC LIMIT 1;

-- name: SetLogRetention :exec
INSERT INTO log_retention (org_id, days) VALUES ($1, $2) ON CONFLICT (org_id) DO UPDATE SET days = EXCLUDED.days;

-- name: DeleteLogRetention :exec
DELETE FROM log_retention WHERE org_id = $1;

-- name: OrgsAfter :many
SELECT id FROM orgs WHERE id > $1 ORDER BY id LIMIT $2;

-- name: JobOfLog :one
SELECT jobs.id, jobs.name, jobs.attempt_id, COALESCE(repos.name, '') AS repo FROM attempts JOIN jobs ON jobs.id = attempts.job_id
LEFT JOIN repos ON repos.id = jobs.repo_id WHERE attempts.id = $1 AND attempts.org_id = $2;

-- name: AttemptsOfJob :many
SELECT id FROM attempts WHERE org_id = $1 AND job_id = $2 ORDER BY id DESC LIMIT $3;
