-- name: TelemetryOfAttempt :one
SELECT CAST(COALESCE(MAX(seq), 0) AS BIGINT) AS last_seq, CAST(COALESCE(SUM(bytes), 0) AS BIGINT) AS bytes, COUNT(*) AS batches
FROM telemetry_batches WHERE org_id = $1 AND job_id = $2 AND attempt_id = $3;

-- name: InsertTelemetry :exec
INSERT INTO telemetry_batches (org_id, job_id, attempt_id, seq, signal, items, stored_at, bytes, data)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- name: AddTelemetryBytes :one
INSERT INTO telemetry_orgs (org_id, bytes) VALUES ($1, $2)
ON CONFLICT (org_id) DO UPDATE SET bytes = telemetry_orgs.bytes + excluded.bytes
RETURNING bytes;

-- name: TelemetryBatches :many
SELECT attempt_id, seq, data FROM telemetry_batches
WHERE org_id = $1 AND job_id = $2 AND signal = $3 AND (attempt_id > $4 OR attempt_id = $4 AND seq > $5)
ORDER BY attempt_id, seq LIMIT $6;

-- name: CountTelemetry :many
SELECT signal, CAST(SUM(items) AS BIGINT) AS items FROM telemetry_batches WHERE org_id = $1 AND job_id = $2 GROUP BY signal;

-- name: OldTelemetry :many
SELECT org_id, job_id, attempt_id, seq, bytes FROM telemetry_batches WHERE stored_at < $1 ORDER BY stored_at LIMIT $2;

-- name: TelemetryRetentions :many
-- For how many days orgs that have telemetry keep logs, those that keep them for ever left out.
SELECT o.org_id, CAST(COALESCE(own.days, everyone.days) AS BIGINT) AS days
FROM telemetry_orgs o LEFT JOIN log_retention own ON own.org_id = o.org_id LEFT JOIN log_retention everyone ON everyone.org_id = ''
WHERE o.org_id > $1 AND o.bytes > 0 AND COALESCE(own.days, everyone.days, 0) > 0 ORDER BY o.org_id LIMIT $2;

-- name: OldTelemetryOfOrg :many
SELECT org_id, job_id, attempt_id, seq, bytes FROM telemetry_batches WHERE org_id = $1 AND stored_at < $2 ORDER BY stored_at LIMIT $3;

-- name: DeleteTelemetry :execrows
DELETE FROM telemetry_batches WHERE org_id = $1 AND job_id = $2 AND attempt_id = $3 AND seq = $4;

-- name: OrgTelemetry :one
SELECT off, bytes FROM telemetry_orgs WHERE org_id = $1;

-- name: SetOrgTelemetry :exec
INSERT INTO telemetry_orgs (org_id, off) VALUES ($1, $2) ON CONFLICT (org_id) DO UPDATE SET off = excluded.off;

-- name: DropOrgTelemetry :exec
DELETE FROM telemetry_orgs WHERE org_id = $1;
