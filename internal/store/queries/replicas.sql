-- name: SeeReplica :exec
INSERT INTO replicas (id, seen_at) VALUES ($1, $2)
ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at;

-- name: ForgetReplicas :exec
DELETE FROM replicas WHERE seen_at < $1;

-- name: Replicas :many
SELECT id, seen_at FROM replicas ORDER BY id LIMIT $1;
