-- name: InsertHost :exec
INSERT INTO hosts (id, name, version, inventory, joined_at, seen_at, changed_at) VALUES ($1, $2, $3, $4, $5, $6, $7);

-- name: Host :one
SELECT * FROM hosts WHERE id = $1 AND removed_at = 0;

-- name: Hosts :many
-- The condition that seems to be in excess is the index's own.
SELECT hosts.*, (SELECT COUNT(*) FROM attempts WHERE attempts.host_id = hosts.id
                 AND attempts.state IN ('offered', 'live') AND attempts.state = 'live') AS running
FROM hosts WHERE hosts.removed_at = 0 AND hosts.id > $1 ORDER BY hosts.id LIMIT $2;

-- name: UpdateHost :execrows
UPDATE hosts SET version = $2, inventory = $3, seen_at = $4, changed_at = $4 WHERE id = $1 AND removed_at = 0;

-- name: CoolHost :exec
UPDATE hosts SET cool_until = $2, changed_at = $3 WHERE id = $1;

-- name: ChangedHosts :many
SELECT * FROM hosts WHERE changed_at >= $1;

-- name: SeenHosts :many
SELECT id, seen_at, warm FROM hosts WHERE removed_at = 0;

-- name: CordonHost :execrows
UPDATE hosts SET cordoned_at = $2, changed_at = $3 WHERE id = $1 AND removed_at = 0;

-- name: RemoveHost :execrows
UPDATE hosts SET removed_at = $2, changed_at = $2 WHERE id = $1 AND removed_at = 0;
