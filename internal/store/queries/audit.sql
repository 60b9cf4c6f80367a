-- name: InsertAudit :exec
INSERT INTO audit_outbox (id, at, org_id, actor, action, target, outcome, detail, count) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9);
