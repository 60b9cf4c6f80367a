-- name: CachePlace :one
-- Who has a place, if anybody does.
SELECT * FROM cache_entries
WHERE org_id = $1 AND repo = $2 AND scope = $3 AND version = $4 AND key = $5 AND state <> 'removing';

-- name: CountCacheUploads :one
SELECT COUNT(*) FROM cache_entries WHERE org_id = $1 AND state = 'uploading';

-- name: InsertCacheUpload :execrows
INSERT INTO cache_entries (id, org_id, repo, scope, version, key, state, job_id, begun_at, touched_at)
VALUES ($1, $2, $3, $4, $5, $6, 'uploading', $7, $8, $8) ON CONFLICT DO NOTHING;

-- name: CacheEntryRow :one
SELECT * FROM cache_entries WHERE id = $1;

-- name: TouchCacheUpload :one
-- With it the upload is this transaction's: blocks of one are written one by one.
UPDATE cache_entries SET touched_at = sqlc.arg(now) WHERE id = sqlc.arg(id) AND state = 'uploading' RETURNING *;

-- name: ReserveCacheBytes :exec
UPDATE cache_entries SET reserved = reserved + sqlc.arg(bytes) WHERE id = sqlc.arg(id);

-- name: CacheBlock :one
SELECT * FROM cache_blocks WHERE entry_id = $1 AND block = $2;

-- name: PutCacheBlock :exec
INSERT INTO cache_blocks (entry_id, block, name, size, sha256) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (entry_id, block) DO UPDATE SET name = excluded.name, size = excluded.size, sha256 = excluded.sha256;

-- name: CountCacheBlock :exec
UPDATE cache_entries SET blocks = blocks + 1 WHERE id = $1;

-- name: CacheBlocksOf :many
SELECT block, size FROM cache_blocks WHERE entry_id = $1;

-- name: ScatterCacheBlocks :exec
UPDATE cache_blocks SET n = -1, start = 0 WHERE entry_id = $1 AND n >= 0;

-- name: CacheArranged :exec
UPDATE cache_entries SET arranged = TRUE WHERE id = $1;

-- name: CacheContent :many
-- What a content is made of, in order.
SELECT size, sha256 FROM cache_blocks WHERE entry_id = $1 AND n >= 0 ORDER BY n;

-- name: CommitCacheEntry :exec
UPDATE cache_entries SET state = 'committed', size = sqlc.arg(size), reserved = 0, created_at = sqlc.arg(now), used_at = sqlc.arg(now)
WHERE id = sqlc.arg(id);

-- name: MoveCacheUpload :exec
UPDATE cache_entries SET version = sqlc.arg(version), key = sqlc.arg(key), meta = sqlc.arg(meta) WHERE id = sqlc.arg(id);

-- name: LooseCacheBlocks :many
SELECT name FROM cache_blocks WHERE entry_id = $1 AND n < 0;

-- name: DropLooseCacheBlocks :exec
DELETE FROM cache_blocks WHERE entry_id = $1 AND n < 0;

-- name: PinCacheEntry :execrows
-- What is held for longer, as artifacts are, stays so.
UPDATE cache_entries SET used_at = sqlc.arg(now), pinned_until = CASE WHEN pinned_until > sqlc.arg(until) THEN pinned_until ELSE sqlc.arg(until) END
WHERE id = sqlc.arg(id) AND state = 'committed';

-- name: KeepCacheEntry :exec
-- Also one that is being removed: its content stays until nobody reads it.
UPDATE cache_entries SET pinned_until = sqlc.arg(until) WHERE id = sqlc.arg(id) AND state <> 'uploading' AND pinned_until < sqlc.arg(until);

-- name: CacheSegmentAt :one
-- The part of a content in which a byte is.
SELECT n FROM cache_blocks WHERE entry_id = $1 AND n >= 0 AND start <= $2 ORDER BY start DESC, n DESC LIMIT 1;

-- name: CacheSegments :many
SELECT n, name, start, size, sha256 FROM cache_blocks WHERE entry_id = $1 AND n >= $2 ORDER BY n LIMIT $3;

-- name: AddCacheUsage :one
-- Locks the row, too.
UPDATE cache_usage SET bytes = bytes + sqlc.arg(bytes), entries = entries + sqlc.arg(entries)
WHERE org_id = sqlc.arg(org_id) AND repo = sqlc.arg(repo) RETURNING *;

-- name: OpenCacheUsage :exec
INSERT INTO cache_usage (org_id, repo) VALUES ($1, $2) ON CONFLICT DO NOTHING;

-- name: OldestCacheOfOrg :many
-- What may make room, the least recently used first.
SELECT id, org_id, repo, size FROM cache_entries
WHERE org_id = sqlc.arg(org_id) AND state = 'committed' AND pinned_until <= sqlc.arg(now) ORDER BY used_at, id LIMIT sqlc.arg(most);

-- name: OldestCacheOfRepo :many
SELECT id, org_id, repo, size FROM cache_entries
WHERE org_id = sqlc.arg(org_id) AND repo = sqlc.arg(repo) AND state = 'committed' AND pinned_until <= sqlc.arg(now)
ORDER BY used_at, id LIMIT sqlc.arg(most);

-- name: EvictCacheEntry :execrows
UPDATE cache_entries SET state = 'removing', removing_at = sqlc.arg(now)
WHERE id = sqlc.arg(id) AND state = 'committed' AND pinned_until <= sqlc.arg(now);

-- name: LargestCaches :many
SELECT * FROM cache_usage WHERE repo = '*' AND org_id <> '*' AND bytes > 0 ORDER BY bytes DESC LIMIT $1;

-- name: CountCaches :one
SELECT COUNT(*) FROM cache_usage WHERE repo = '*' AND org_id <> '*' AND bytes > 0;

-- name: CountEvicted :exec
UPDATE cache_usage SET evicted = evicted + sqlc.arg(entries), evicted_bytes = evicted_bytes + sqlc.arg(bytes)
WHERE org_id = sqlc.arg(org_id) AND repo = sqlc.arg(repo);

-- name: GiveUpCacheUpload :one
-- With what it had reserved.
UPDATE cache_entries SET state = 'removing', removing_at = sqlc.arg(now)
WHERE id = sqlc.arg(id) AND state = 'uploading' AND touched_at < sqlc.arg(idle_since) RETURNING *;

-- name: IdleCacheUploads :many
SELECT id FROM cache_entries WHERE state = 'uploading' AND touched_at < $1 ORDER BY touched_at LIMIT $2;

-- name: EndedCacheUploads :many
-- Those of jobs that have ended.
SELECT e.id FROM cache_entries e JOIN jobs j ON j.id = e.job_id
WHERE e.state = 'uploading' AND j.state = 'finished' ORDER BY e.id LIMIT $1;

-- name: UnusedCacheEntries :many
-- But for those of orgs that have a time of their own.
SELECT id, org_id, repo, size FROM cache_entries
WHERE state = 'committed' AND used_at < sqlc.arg(used_before) AND pinned_until <= sqlc.arg(now)
  AND NOT EXISTS (SELECT 1 FROM cache_usage u WHERE u.org_id = cache_entries.org_id AND u.repo = '*' AND u.unused >= 0)
ORDER BY used_at, id LIMIT sqlc.arg(most);

-- name: ExpiredCacheEntries :many
SELECT id, org_id, repo, size FROM cache_entries
WHERE state = 'committed' AND expires_at > 0 AND expires_at <= sqlc.arg(now) AND pinned_until <= sqlc.arg(now) ORDER BY expires_at LIMIT sqlc.arg(most);

-- name: HoldCacheEntry :execrows
-- Makes an artifact of an entry.
UPDATE cache_entries SET digest = sqlc.arg(digest), expires_at = sqlc.arg(expires_at), pinned_until = sqlc.arg(expires_at)
WHERE id = sqlc.arg(id) AND state = 'committed' AND digest = '';

-- name: SetCacheType :execrows
UPDATE cache_entries SET mime_type = sqlc.arg(mime_type) WHERE id = sqlc.arg(id) AND state = 'uploading';

-- name: Artifacts :many
SELECT * FROM cache_entries
WHERE org_id = sqlc.arg(org_id) AND repo = sqlc.arg(repo) AND scope = sqlc.arg(scope) AND version = sqlc.arg(version) AND state = 'committed' AND digest <> ''
ORDER BY id DESC LIMIT sqlc.arg(most);

-- name: OwnCacheUnused :many
SELECT org_id, unused FROM cache_usage WHERE repo = '*' AND unused >= 0 ORDER BY org_id LIMIT $1;

-- name: UnusedCacheEntriesOf :many
SELECT id, org_id, repo, size FROM cache_entries
WHERE org_id = sqlc.arg(org_id) AND state = 'committed' AND used_at < sqlc.arg(used_before) AND pinned_until <= sqlc.arg(now)
ORDER BY used_at, id LIMIT sqlc.arg(most);

-- name: CachesOverQuota :many
-- Where a bound was made smaller.
SELECT org_id, repo FROM cache_usage
WHERE bytes > CASE WHEN quota >= 0 THEN quota WHEN org_id = '*' THEN sqlc.arg(total) WHEN repo = '*' THEN sqlc.arg(of_org) ELSE CAST(sqlc.arg(of_repo) AS BIGINT) END
   OR repo = '*' AND org_id <> '*' AND entries > sqlc.arg(entries)
ORDER BY org_id, repo LIMIT sqlc.arg(most);

-- name: RemovingCacheEntries :many
SELECT id, org_id FROM cache_entries
WHERE state = 'removing' AND pinned_until <= sqlc.arg(now) AND id > sqlc.arg(after) ORDER BY id LIMIT sqlc.arg(most);

-- name: CacheBlobNames :many
SELECT name FROM cache_blocks WHERE entry_id = $1 ORDER BY name LIMIT $2;

-- name: ForgetCacheBlocks :exec
DELETE FROM cache_blocks WHERE entry_id = $1 AND name <= $2;

-- name: ForgetCacheEntry :execrows
DELETE FROM cache_entries WHERE id = $1 AND state = 'removing';

-- name: NamedCacheBlobs :many
-- Which contents of an entry have a row.
SELECT b.name FROM cache_blocks b JOIN cache_entries e ON e.id = b.entry_id
WHERE e.org_id = sqlc.arg(org_id) AND b.entry_id = sqlc.arg(entry_id) AND b.name >= sqlc.arg(first_name) AND b.name <= sqlc.arg(last_name);

-- name: CountCacheUse :exec
UPDATE cache_usage SET hits = hits + sqlc.arg(hits), misses = misses + sqlc.arg(misses), bytes_in = bytes_in + sqlc.arg(bytes_in),
    bytes_out = bytes_out + sqlc.arg(bytes_out), refused = refused + sqlc.arg(refused)
WHERE org_id = sqlc.arg(org_id) AND repo = sqlc.arg(repo);

-- name: CacheEntriesPage :many
SELECT * FROM cache_entries
WHERE org_id = sqlc.arg(org_id) AND state = 'committed' AND id < sqlc.arg(before)
  AND (CAST(sqlc.arg(any_repo) AS BOOLEAN) OR repo = sqlc.arg(repo))
  AND (CAST(sqlc.arg(any_scope) AS BOOLEAN) OR scope = sqlc.arg(scope))
  AND (CAST(sqlc.arg(any_key) AS BOOLEAN) OR key >= sqlc.arg(from_key) AND key < sqlc.arg(to_key))
ORDER BY id DESC LIMIT sqlc.arg(most);

-- name: CacheUploadsOf :many
SELECT * FROM cache_entries
WHERE org_id = sqlc.arg(org_id) AND state = 'uploading' AND (CAST(sqlc.arg(any_repo) AS BOOLEAN) OR repo = sqlc.arg(repo))
ORDER BY id DESC LIMIT sqlc.arg(most);

-- name: CacheUsageOf :many
SELECT * FROM cache_usage WHERE org_id = $1 ORDER BY CASE WHEN repo = '*' THEN 0 ELSE 1 END, bytes DESC, repo LIMIT $2;

-- name: CacheUsageOfOrgs :many
SELECT * FROM cache_usage WHERE repo = '*' AND org_id > $1 ORDER BY org_id LIMIT $2;

-- name: RemoveCacheEntry :one
-- Somebody may read it for a while yet: but nobody longer than it takes to pin it
-- again.
UPDATE cache_entries SET state = 'removing', removing_at = sqlc.arg(now),
    pinned_until = CASE WHEN pinned_until > sqlc.arg(most) THEN sqlc.arg(most) ELSE pinned_until END
WHERE org_id = sqlc.arg(org_id) AND id = sqlc.arg(id) AND state = 'committed' RETURNING *;

-- name: SetCacheQuota :execrows
UPDATE cache_usage SET quota = $3 WHERE org_id = $1 AND repo = $2;

-- name: SetCacheUnused :exec
UPDATE cache_usage SET unused = sqlc.arg(unused) WHERE org_id = sqlc.arg(org_id) AND repo = '*';

-- name: NamedCacheUsage :many
-- With the names of orgs, for metrics: those that were made first.
SELECT o.name, u.* FROM cache_usage u JOIN orgs o ON o.id = u.org_id WHERE u.repo = '*' ORDER BY u.org_id LIMIT $1;

-- name: RemoveOrgCache :exec
UPDATE cache_entries SET state = 'removing', removing_at = $2, pinned_until = CASE WHEN pinned_until > $3 THEN $3 ELSE pinned_until END WHERE org_id = $1 AND state <> 'removing';

-- name: DropOrgCacheUsage :exec
DELETE FROM cache_usage WHERE org_id = $1;
