-- name: Lead :one
INSERT INTO leaders (name, holder, fence, expires_at) VALUES ($1, $2, 1, $3)
ON CONFLICT (name) DO UPDATE
SET fence = CASE WHEN leaders.holder = excluded.holder THEN leaders.fence ELSE leaders.fence + 1 END,
    holder = excluded.holder, expires_at = excluded.expires_at
WHERE leaders.holder = excluded.holder OR leaders.expires_at <= $4
RETURNING fence;

-- name: Resign :exec
UPDATE leaders SET expires_at = 0 WHERE name = $1 AND holder = $2;
