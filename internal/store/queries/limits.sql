-- name: SetLimit :exec
INSERT INTO limits (id, org_id, kind, name, most) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (id) DO UPDATE SET most = excluded.most;

-- name: DropLimit :execrows
DELETE FROM limits WHERE id = $1 AND org_id = $2;

-- name: LimitsOf :many
SELECT * FROM limits WHERE org_id = $1 ORDER BY kind, name;

-- name: UseLimit :exec
UPDATE limits SET used = used + $2 WHERE id = $1;
