-- name: InsertToken :exec
INSERT INTO tokens (id, kind, org_id, subject, hash, state, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- name: TokenByHash :one
SELECT * FROM tokens WHERE hash = $1;

-- name: UseToken :execrows
UPDATE tokens SET state = 'used' WHERE hash = $1 AND state = 'active' AND (expires_at = 0 OR expires_at > $2);

-- name: MoveTokens :execrows
UPDATE tokens SET state = sqlc.arg(new_state) WHERE kind = sqlc.arg(kind) AND subject = sqlc.arg(subject) AND state = sqlc.arg(old_state);

-- name: CountTokens :one
SELECT COUNT(*) FROM tokens WHERE kind = $1 AND state = 'active';

-- name: DeleteExpiredTokens :execrows
DELETE FROM tokens WHERE expires_at > 0 AND expires_at < $1;

-- name: PutSecret :exec
INSERT INTO secrets (org_id, name, sealed, updated_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (org_id, name) DO UPDATE SET sealed = excluded.sealed, updated_at = excluded.updated_at;

-- name: Secret :one
SELECT sealed FROM secrets WHERE org_id = $1 AND name = $2;
