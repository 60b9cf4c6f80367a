-- name: InsertToken :exec
INSERT INTO tokens (id, kind, org_id, subject, hash, state, created_at, expires_at, version, name, role, scopes, parent, created_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14);

-- name: TokenByHash :one
SELECT * FROM tokens WHERE hash = $1;

-- name: UseToken :execrows
UPDATE tokens SET state = 'used' WHERE hash = $1 AND state = 'active' AND (expires_at = 0 OR expires_at > $2);

-- name: EndSession :one
UPDATE tokens SET state = 'used' WHERE hash = $1 AND kind = 'session' AND state = 'active' RETURNING id, org_id;

-- name: TokensPage :many
SELECT * FROM tokens
WHERE org_id = sqlc.arg(org_id) AND kind IN ('user', 'account', 'admin') AND id > sqlc.arg(after)
  AND (subject = sqlc.arg(subject) OR sqlc.arg(subject) = '')
ORDER BY id LIMIT sqlc.arg(most);

-- name: RevokeToken :one
UPDATE tokens SET state = 'revoked', revoked_at = sqlc.arg(now)
WHERE id = sqlc.arg(id) AND org_id = sqlc.arg(org_id) AND kind IN ('user', 'account', 'admin') AND state = 'active'
  AND (subject = sqlc.arg(subject) OR sqlc.arg(subject) = '')
RETURNING *;

-- name: RevokeOrphans :many
-- One generation of what was made with tokens that are revoked.
UPDATE tokens SET state = 'revoked', revoked_at = $1
WHERE state = 'active' AND parent <> '' AND parent IN (SELECT p.id FROM tokens p WHERE p.state = 'revoked')
RETURNING id;

-- name: ReleaseToken :execrows
UPDATE tokens SET parent = ''
WHERE id = sqlc.arg(id) AND parent = sqlc.arg(parent) AND state = 'active' AND kind IN ('user', 'account', 'admin');

-- name: RevokeTokensOf :exec
UPDATE tokens SET state = 'revoked', revoked_at = $2
WHERE kind IN ('user', 'account', 'admin', 'host', 'login', 'session') AND subject = $1 AND state = 'active';

-- name: RevokeMembersTokens :exec
UPDATE tokens SET state = 'revoked', revoked_at = sqlc.arg(now)
WHERE kind IN ('user', 'login', 'session') AND subject = sqlc.arg(subject) AND org_id = sqlc.arg(org_id) AND state = 'active';

-- name: HoldToken :one
-- Keeps others from changing an active token until the transaction ends.
UPDATE tokens SET version = version WHERE id = $1 AND state = 'active' RETURNING expires_at;

-- name: TokenParent :one
SELECT parent FROM tokens WHERE id = $1;

-- name: OtherAdminTokens :one
SELECT COUNT(*) FROM tokens WHERE kind = 'admin' AND state = 'active' AND id <> $1 AND (expires_at = 0 OR expires_at > $2);

-- name: PlatformAdmins :one
SELECT COUNT(*) FROM users WHERE platform_admin AND removed_at = 0 AND id <> $1;

-- name: TouchToken :exec
UPDATE tokens SET last_used_at = $2 WHERE id = $1 AND last_used_at < $3;

-- name: CountTokens :one
SELECT COUNT(*) FROM tokens WHERE kind = $1;

-- name: DeleteExpiredTokens :execrows
DELETE FROM tokens WHERE expires_at > 0 AND expires_at < $1;

-- name: NextRevocation :one
UPDATE revocation_seq SET last = last + 1 WHERE one = 1 RETURNING last;

-- name: InsertRevocation :exec
INSERT INTO revocations (seq, subject, at) VALUES ($1, $2, $3);

-- name: Revocations :many
SELECT seq, subject FROM revocations WHERE seq > $1 ORDER BY seq LIMIT $2;

-- name: LastRevocation :one
SELECT last FROM revocation_seq WHERE one = 1;

-- name: DeleteRevocations :exec
DELETE FROM revocations WHERE at < $1;

-- name: PutSecret :exec
INSERT INTO secrets (org_id, name, sealed, updated_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (org_id, name) DO UPDATE SET sealed = excluded.sealed, updated_at = excluded.updated_at;

-- name: Secret :one
SELECT sealed FROM secrets WHERE org_id = $1 AND name = $2;
