-- name: DeliveryCursor :one
SELECT checked_at, page, newest_at FROM delivery_cursors WHERE app_id = $1;

-- name: SaveDeliveryCursor :exec
INSERT INTO delivery_cursors (app_id, checked_at, page, newest_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (app_id) DO UPDATE SET checked_at = excluded.checked_at, page = excluded.page, newest_at = excluded.newest_at;

-- name: RememberRedelivery :exec
INSERT INTO redeliveries (app_id, guid, delivery_id, sent_at, next_at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (app_id, guid) DO UPDATE SET delivery_id = excluded.delivery_id WHERE redeliveries.delivery_id < excluded.delivery_id;

-- name: ForgetProcessed :exec
DELETE FROM redeliveries WHERE app_id = $1 AND guid IN (SELECT d.id FROM deliveries d WHERE d.id = redeliveries.guid);

-- name: DueRedeliveries :many
SELECT guid, delivery_id, sent_at, tries FROM redeliveries WHERE app_id = $1 AND next_at <= $2 ORDER BY sent_at, guid LIMIT $3;

-- name: PutOffRedelivery :exec
UPDATE redeliveries SET tries = $3, next_at = $4 WHERE app_id = $1 AND guid = $2;

-- name: ForgetRedelivery :exec
DELETE FROM redeliveries WHERE app_id = $1 AND guid = $2;

-- name: SeenRepositories :many
SELECT j.github FROM jobs j WHERE j.id IN (
    SELECT MAX(n.id) FROM jobs n WHERE n.source = 'github' AND n.id >= $1 GROUP BY n.repo_id)
ORDER BY j.id DESC LIMIT $2;
