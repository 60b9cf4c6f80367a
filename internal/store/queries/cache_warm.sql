-- name: ForgetCacheWishes :exec
DELETE FROM cache_warm WHERE expires_at <= $1;

-- name: ForgetCacheWishesOf :exec
DELETE FROM cache_warm WHERE org_id = $1 AND host_id = $2;

-- name: AddCacheWish :exec
INSERT INTO cache_warm (host_id, entry_id, org_id, bytes, state, asked_at, expires_at) VALUES ($1, $2, $3, $4, 'asked', $5, $6)
ON CONFLICT (host_id, entry_id) DO NOTHING;

-- name: HostsWithCacheWishes :many
SELECT DISTINCT host_id FROM cache_warm WHERE state = 'asked' AND expires_at > $1 ORDER BY host_id LIMIT $2;

-- name: CacheWishes :many
SELECT w.org_id, w.entry_id, w.bytes FROM cache_warm w
JOIN cache_entries e ON e.id = w.entry_id AND e.org_id = w.org_id AND e.state = 'committed'
WHERE w.host_id = $1 AND w.state = 'asked' AND w.expires_at > $2
ORDER BY w.asked_at, w.entry_id DESC LIMIT $3;

-- name: SetCacheWarmed :exec
UPDATE cache_warm SET state = $1 WHERE host_id = $2 AND entry_id = $3 AND org_id = $4 AND state = 'asked';

-- name: CacheWarmth :many
SELECT w.host_id, w.state, CAST(COUNT(e.id) AS BIGINT) AS there, CAST(COUNT(*) AS BIGINT) AS entries, CAST(SUM(w.bytes) AS BIGINT) AS bytes,
    CAST(COALESCE(SUM(CASE WHEN e.id IS NULL THEN 0 ELSE w.bytes END), 0) AS BIGINT) AS bytes_there
FROM cache_warm w LEFT JOIN cache_entries e ON e.id = w.entry_id AND e.org_id = w.org_id AND e.state = 'committed'
WHERE w.org_id = $1 AND w.expires_at > $2
GROUP BY w.host_id, w.state ORDER BY w.host_id, w.state;
