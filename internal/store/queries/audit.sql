-- name: InsertAudit :exec
INSERT INTO audit_outbox (id, at, org_id, actor, action, target, outcome, detail, count) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- name: AuditOutbox :many
SELECT * FROM audit_outbox ORDER BY at, id LIMIT $1;

-- name: DeleteAuditOutbox :exec
DELETE FROM audit_outbox WHERE id = $1;

-- name: AuditHead :one
SELECT seq, hash FROM audit_heads WHERE org_id = $1;

-- name: SetAuditHead :exec
INSERT INTO audit_heads (org_id, seq, hash) VALUES ($1, $2, $3)
ON CONFLICT (org_id) DO UPDATE SET seq = excluded.seq, hash = excluded.hash;

-- name: InsertAuditEntry :exec
INSERT INTO audit_ledger (org_id, seq, id, at, actor, action, target, outcome, detail, count, prev_hash, hash)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12);

-- name: InsertAuditCheckpoint :exec
INSERT INTO audit_checkpoints (org_id, seq, hash, at, signature, prev_seq) VALUES ($1, $2, $3, $4, $5, $6);

-- name: AuditCheckpoints :many
SELECT * FROM audit_checkpoints WHERE org_id = $1 AND seq > $2 ORDER BY seq LIMIT $3;
