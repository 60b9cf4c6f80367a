-- name: InsertHostKey :execrows
INSERT INTO host_keys (host_id, public_key, join_hash, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT (host_id) DO NOTHING;

-- name: HostKey :one
SELECT * FROM host_keys WHERE host_id = $1;

-- name: HostKeyOfJoin :one
SELECT * FROM host_keys WHERE join_hash = $1;

-- name: HostGone :one
SELECT removed_at FROM hosts WHERE id = $1;

-- name: NumberHostSession :execrows
UPDATE host_keys SET number = sqlc.arg(number), token_hash = sqlc.arg(token_hash) WHERE host_id = sqlc.arg(host_id) AND number < sqlc.arg(number);

-- name: DropHostSessions :execrows
DELETE FROM tokens WHERE kind = 'host' AND subject = $1 AND expires_at > 0 AND expires_at <= $2;

-- name: ShortenHostSessions :execrows
UPDATE tokens SET expires_at = sqlc.arg(until)
WHERE kind = 'host' AND subject = sqlc.arg(subject) AND state = 'active' AND (expires_at = 0 OR expires_at > sqlc.arg(until));

-- name: InsertHostSession :exec
INSERT INTO tokens (id, kind, org_id, subject, hash, state, created_at, expires_at) VALUES ($1, 'host', '', $2, $3, 'active', $4, $5);

-- name: DeleteHostKey :exec
DELETE FROM host_keys WHERE host_id = $1;
