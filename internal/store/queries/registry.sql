-- name: OpenRegistryRepo :exec
INSERT INTO registry_repos (org_id, repo, created_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING;

-- name: RegistryRepo :one
SELECT * FROM registry_repos WHERE org_id = $1 AND repo = $2;

-- name: RegistryRepos :many
SELECT * FROM registry_repos WHERE org_id = $1 AND repo > $2 ORDER BY repo LIMIT $3;

-- name: PutRegistryBlob :one
-- Locks the row. Whose path and content come back says whose bytes are kept.
INSERT INTO registry_blobs (org_id, digest, size, path, content, created_at) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (org_id, digest) DO UPDATE SET created_at = registry_blobs.created_at RETURNING *;

-- name: LockRegistryBlob :one
UPDATE registry_blobs SET created_at = created_at WHERE org_id = $1 AND digest = $2 RETURNING *;

-- name: PutRegistryLink :exec
INSERT INTO registry_links (org_id, repo, digest, used_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (org_id, repo, digest) DO UPDATE SET used_at = excluded.used_at;

-- name: LinkedRegistryBlob :one
SELECT b.size, b.path, b.content, l.used_at FROM registry_links l JOIN registry_blobs b ON b.org_id = l.org_id AND b.digest = l.digest
WHERE l.org_id = $1 AND l.repo = $2 AND l.digest = $3;

-- name: TouchRegistryLink :execrows
UPDATE registry_links SET used_at = sqlc.arg(now) WHERE org_id = sqlc.arg(org_id) AND repo = sqlc.arg(repo) AND digest = sqlc.arg(digest);

-- name: DropRegistryLink :execrows
DELETE FROM registry_links WHERE org_id = $1 AND repo = $2 AND digest = $3;

-- name: LooseRegistryLinks :many
-- Those that no manifest names and nobody used lately, from one on.
SELECT used_at, org_id, repo, digest FROM registry_links
WHERE used_at < sqlc.arg(used_before) AND (used_at, org_id, repo, digest) > (CAST(sqlc.arg(after_used) AS BIGINT), CAST(sqlc.arg(after_org) AS TEXT), CAST(sqlc.arg(after_repo) AS TEXT), CAST(sqlc.arg(after_digest) AS TEXT))
  AND NOT EXISTS (SELECT 1 FROM registry_refs r WHERE r.org_id = registry_links.org_id AND r.repo = registry_links.repo AND r.digest = registry_links.digest)
ORDER BY used_at, org_id, repo, digest LIMIT sqlc.arg(most);

-- name: LockLooseRegistryLink :execrows
-- The mark: who uses a link after this waits, and finds it gone.
UPDATE registry_links SET used_at = used_at
WHERE org_id = sqlc.arg(org_id) AND repo = sqlc.arg(repo) AND digest = sqlc.arg(digest) AND used_at < sqlc.arg(used_before);

-- name: RegistryRefsOf :one
SELECT CAST(EXISTS (SELECT 1 FROM registry_refs WHERE org_id = $1 AND repo = $2 AND digest = $3) AS BOOLEAN);

-- name: RegistryLinksOf :one
SELECT CAST(EXISTS (SELECT 1 FROM registry_links WHERE org_id = $1 AND digest = $2) AS BOOLEAN);

-- name: DropRegistryBlob :exec
DELETE FROM registry_blobs WHERE org_id = $1 AND digest = $2;

-- name: RegistryUpload :one
SELECT * FROM registry_uploads WHERE id = $1;

-- name: OpenRegistryUpload :execrows
INSERT INTO registry_uploads (id, org_id, repo, state, size, segments, algorithm, sum, begun_at, touched_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9) ON CONFLICT DO NOTHING;

-- name: CountRegistryUploads :one
SELECT COUNT(*) FROM registry_uploads WHERE org_id = $1 AND state = 'open';

-- name: GrowRegistryUpload :execrows
-- Only if nobody has grown it since it was looked at.
UPDATE registry_uploads SET size = sqlc.arg(size), segments = segments + 1, sum = sqlc.arg(sum), touched_at = sqlc.arg(now)
WHERE id = sqlc.arg(id) AND state = 'open' AND segments = sqlc.arg(segments);

-- name: EndRegistryUpload :one
UPDATE registry_uploads SET state = 'ended', touched_at = sqlc.arg(now) WHERE id = sqlc.arg(id) AND state = 'open' RETURNING *;

-- name: IdleRegistryUploads :many
SELECT id, org_id, repo FROM registry_uploads WHERE state = 'open' AND touched_at < $1 ORDER BY touched_at LIMIT $2;

-- name: ForgetRegistryUploads :exec
DELETE FROM registry_uploads WHERE state = 'ended' AND touched_at < $1;

-- name: PutRegistrySegment :exec
INSERT INTO registry_segments (content, n, org_id, start, size, path) VALUES ($1, $2, $3, $4, $5, $6);

-- name: RegistrySegments :many
SELECT n, start, size, path FROM registry_segments WHERE content = $1 AND n >= $2 ORDER BY n LIMIT $3;

-- name: RegistrySegmentAt :one
SELECT CAST(COALESCE(MAX(n), -1) AS BIGINT) FROM registry_segments WHERE content = $1 AND start <= $2;

-- name: DropRegistrySegments :exec
DELETE FROM registry_segments WHERE content = $1;

-- name: WasteRegistrySegments :exec
INSERT INTO registry_garbage (org_id, path, removed_at)
SELECT s.org_id, s.path, CAST(sqlc.arg(now) AS BIGINT) FROM registry_segments s WHERE s.content = sqlc.arg(content) ON CONFLICT DO NOTHING;

-- name: WasteRegistryPath :exec
INSERT INTO registry_garbage (org_id, path, removed_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING;

-- name: RegistryGarbage :many
SELECT removed_at, org_id, path FROM registry_garbage
WHERE removed_at <= sqlc.arg(removed_before) AND (removed_at, org_id, path) > (CAST(sqlc.arg(after_removed) AS BIGINT), CAST(sqlc.arg(after_org) AS TEXT), CAST(sqlc.arg(after_path) AS TEXT))
ORDER BY removed_at, org_id, path LIMIT sqlc.arg(most);

-- name: ForgetRegistryGarbage :exec
DELETE FROM registry_garbage WHERE org_id = $1 AND path = $2;

-- name: NamedRegistryPaths :many
-- Which contents of an org something names.
SELECT b.path FROM registry_blobs b WHERE b.org_id = sqlc.arg(org_id) AND b.path <> '' AND b.path >= sqlc.arg(first_path) AND b.path <= sqlc.arg(last_path)
UNION ALL SELECT s.path FROM registry_segments s WHERE s.org_id = sqlc.arg(org_id) AND s.path >= sqlc.arg(first_path) AND s.path <= sqlc.arg(last_path)
UNION ALL SELECT g.path FROM registry_garbage g WHERE g.org_id = sqlc.arg(org_id) AND g.path >= sqlc.arg(first_path) AND g.path <= sqlc.arg(last_path);

-- name: AddRegistryUsage :one
-- Locks the row, too.
INSERT INTO registry_usage (org_id, bytes) VALUES ($1, $2)
ON CONFLICT (org_id) DO UPDATE SET bytes = registry_usage.bytes + excluded.bytes RETURNING *;

-- name: RegistryUsage :one
SELECT * FROM registry_usage WHERE org_id = $1;

-- name: RegistryUsageOfOrgs :many
SELECT * FROM registry_usage WHERE org_id > $1 ORDER BY org_id LIMIT $2;

-- name: SetRegistryQuota :exec
INSERT INTO registry_usage (org_id, quota) VALUES ($1, $2) ON CONFLICT (org_id) DO UPDATE SET quota = excluded.quota;

-- name: PutRegistryManifest :one
-- Locks the row; pushed_at says whether it is new.
INSERT INTO registry_manifests (org_id, repo, digest, media_type, artifact_type, subject, annotations, size, image_size, content, platforms, pushed_at, used_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12)
ON CONFLICT (org_id, repo, digest) DO UPDATE SET used_at = excluded.used_at RETURNING pushed_at;

-- name: RegistryManifest :one
SELECT media_type, subject, size, content FROM registry_manifests WHERE org_id = $1 AND repo = $2 AND digest = $3;

-- name: RegistryTag :one
SELECT digest FROM registry_tags WHERE org_id = $1 AND repo = $2 AND tag = $3;

-- name: PutRegistryTag :execrows
INSERT INTO registry_tags (org_id, repo, tag, digest, updated_at)
VALUES (sqlc.arg(org_id), sqlc.arg(repo), sqlc.arg(tag), sqlc.arg(digest), sqlc.arg(now))
ON CONFLICT (org_id, repo, tag) DO UPDATE SET digest = excluded.digest, updated_at = excluded.updated_at
WHERE registry_tags.digest = excluded.digest OR NOT CAST(sqlc.arg(immutable) AS BOOLEAN);

-- name: DropRegistryTag :execrows
DELETE FROM registry_tags WHERE org_id = $1 AND repo = $2 AND tag = $3;

-- name: DropRegistryTagsOf :exec
DELETE FROM registry_tags WHERE org_id = $1 AND repo = $2 AND digest = $3;

-- name: RegistryTags :many
SELECT tag FROM registry_tags WHERE org_id = $1 AND repo = $2 AND tag > $3 ORDER BY tag LIMIT $4;

-- name: RegistryTagRows :many
SELECT t.tag, t.digest, t.updated_at, m.media_type, m.artifact_type, m.size, m.image_size, m.platforms, m.pushed_at, m.pulled_at FROM registry_tags t
JOIN registry_manifests m ON m.org_id = t.org_id AND m.repo = t.repo AND m.digest = t.digest
WHERE t.org_id = $1 AND t.repo = $2 AND t.tag > $3 ORDER BY t.tag LIMIT $4;

-- name: DropRegistryManifest :one
DELETE FROM registry_manifests WHERE org_id = $1 AND repo = $2 AND digest = $3 RETURNING size;

-- name: DropRegistryRefs :exec
DELETE FROM registry_refs WHERE org_id = $1 AND repo = $2 AND manifest = $3;

-- name: RegistryReferrers :many
SELECT digest, media_type, artifact_type, size, annotations FROM registry_manifests
WHERE org_id = sqlc.arg(org_id) AND repo = sqlc.arg(repo) AND subject = sqlc.arg(subject) AND subject <> '' AND digest > sqlc.arg(after)
  AND (CAST(sqlc.arg(any_type) AS BOOLEAN) OR artifact_type = sqlc.arg(artifact_type))
ORDER BY digest LIMIT sqlc.arg(most);

-- name: RegistryReferrerHeads :many
-- The same without their annotations, which may be as large as a manifest.
SELECT digest, artifact_type, size FROM registry_manifests
WHERE org_id = sqlc.arg(org_id) AND repo = sqlc.arg(repo) AND subject = sqlc.arg(subject) AND subject <> '' AND digest > sqlc.arg(after)
  AND (CAST(sqlc.arg(any_type) AS BOOLEAN) OR artifact_type = sqlc.arg(artifact_type))
ORDER BY digest LIMIT sqlc.arg(most);

-- name: UsedRegistryManifest :exec
UPDATE registry_manifests SET used_at = sqlc.arg(at), pulled_at = sqlc.arg(at)
WHERE org_id = sqlc.arg(org_id) AND repo = sqlc.arg(repo) AND digest = sqlc.arg(digest) AND used_at < sqlc.arg(at);

-- name: LooseRegistryManifests :many
-- Those that no tag and no index names, that are about nothing that is there, and
-- that nobody used lately.
SELECT m.used_at, m.org_id, m.repo, m.digest FROM registry_manifests m
WHERE m.used_at < sqlc.arg(used_before) AND (m.used_at, m.org_id, m.repo, m.digest) > (CAST(sqlc.arg(after_used) AS BIGINT), CAST(sqlc.arg(after_org) AS TEXT), CAST(sqlc.arg(after_repo) AS TEXT), CAST(sqlc.arg(after_digest) AS TEXT))
  AND NOT EXISTS (SELECT 1 FROM registry_tags t WHERE t.org_id = m.org_id AND t.repo = m.repo AND t.digest = m.digest)
  AND NOT EXISTS (SELECT 1 FROM registry_refs r WHERE r.org_id = m.org_id AND r.repo = m.repo AND r.digest = m.digest)
  AND (m.subject = '' OR NOT EXISTS (SELECT 1 FROM registry_manifests s WHERE s.org_id = m.org_id AND s.repo = m.repo AND s.digest = m.subject))
ORDER BY m.used_at, m.org_id, m.repo, m.digest LIMIT sqlc.arg(most);

-- name: UnusedRegistryImages :many
-- Tagged ones that the rules of their repositories have go.
SELECT m.org_id, m.repo, m.digest, m.used_at, CAST(sqlc.arg(now) - o.keep_days * CAST(sqlc.arg(day) AS BIGINT) AS BIGINT) AS used_before FROM registry_repos o
JOIN registry_manifests m ON m.org_id = o.org_id AND m.repo = o.repo AND m.used_at < sqlc.arg(now) - o.keep_days * CAST(sqlc.arg(day) AS BIGINT)
WHERE o.keep_days > 0 AND EXISTS (SELECT 1 FROM registry_tags t WHERE t.org_id = m.org_id AND t.repo = m.repo AND t.digest = m.digest)
ORDER BY m.org_id, m.repo, m.digest LIMIT sqlc.arg(most);

-- name: OldestRegistryImages :many
-- Tagged ones of an org that may make room, the least recently used first.
SELECT m.repo, m.digest, m.used_at, m.image_size FROM registry_repos o
JOIN registry_manifests m ON m.org_id = o.org_id AND m.repo = o.repo
WHERE o.org_id = sqlc.arg(org_id) AND o.evict AND m.used_at < sqlc.arg(used_before)
  AND EXISTS (SELECT 1 FROM registry_tags t WHERE t.org_id = m.org_id AND t.repo = m.repo AND t.digest = m.digest)
ORDER BY m.used_at, m.repo, m.digest LIMIT sqlc.arg(most);

-- name: LockUnusedRegistryManifest :execrows
UPDATE registry_manifests SET used_at = used_at
WHERE org_id = sqlc.arg(org_id) AND repo = sqlc.arg(repo) AND digest = sqlc.arg(digest) AND used_at < sqlc.arg(used_before);

-- name: RegistryManifestIsNamed :one
SELECT CAST(EXISTS (SELECT 1 FROM registry_tags t WHERE t.org_id = sqlc.arg(org_id) AND t.repo = sqlc.arg(repo) AND t.digest = sqlc.arg(digest))
  OR EXISTS (SELECT 1 FROM registry_refs r WHERE r.org_id = sqlc.arg(org_id) AND r.repo = sqlc.arg(repo) AND r.digest = sqlc.arg(digest)) AS BOOLEAN);

-- name: RegistryChildren :many
-- The manifests that an index names.
SELECT m.digest FROM registry_refs r JOIN registry_manifests m ON m.org_id = r.org_id AND m.repo = r.repo AND m.digest = r.digest
WHERE r.org_id = $1 AND r.repo = $2 AND r.manifest = $3 ORDER BY m.digest LIMIT $4;

-- name: RegistryEpoch :one
SELECT epoch FROM registry_epoch WHERE one = 1;

-- name: GrowRegistryEpoch :exec
UPDATE registry_epoch SET epoch = epoch + 1 WHERE one = 1;

-- name: SetRegistryRepo :execrows
UPDATE registry_repos SET immutable = $3, keep_days = $4, evict = $5, push_from = $6 WHERE org_id = $1 AND repo = $2;

-- name: DropRegistryRepo :execrows
DELETE FROM registry_repos WHERE org_id = $1 AND repo = $2;

-- name: RegistryManifestsOf :many
SELECT digest FROM registry_manifests WHERE org_id = $1 AND repo = $2 AND digest > $3 ORDER BY digest LIMIT $4;

-- name: AgeRegistryLinks :exec
-- Has the links of a repository go with the next sweep, unless something names them.
UPDATE registry_links SET used_at = 0 WHERE org_id = $1 AND repo = $2;

-- name: RegistryTotals :one
SELECT (SELECT COUNT(*) FROM registry_tags t WHERE t.org_id = sqlc.arg(org_id) AND t.repo = sqlc.arg(repo)) AS tags,
       (SELECT COUNT(*) FROM registry_manifests m WHERE m.org_id = sqlc.arg(org_id) AND m.repo = sqlc.arg(repo)) AS manifests,
       CAST(COALESCE((SELECT SUM(b.size) FROM registry_links l JOIN registry_blobs b ON b.org_id = l.org_id AND b.digest = l.digest
           WHERE l.org_id = sqlc.arg(org_id) AND l.repo = sqlc.arg(repo)), 0) AS BIGINT) AS bytes,
       CAST(COALESCE((SELECT MAX(m.pulled_at) FROM registry_manifests m WHERE m.org_id = sqlc.arg(org_id) AND m.repo = sqlc.arg(repo)), 0) AS BIGINT) AS pulled_at;

-- name: DropRegistryLinksOf :exec
DELETE FROM registry_links WHERE org_id = $1 AND digest = $2;

-- name: WasteOrgRegistryBlobs :exec
INSERT INTO registry_garbage (org_id, path, removed_at)
SELECT b.org_id, b.path, CAST(sqlc.arg(now) AS BIGINT) FROM registry_blobs b WHERE b.org_id = sqlc.arg(org_id) AND b.path <> '' ON CONFLICT DO NOTHING;

-- name: WasteOrgRegistrySegments :exec
INSERT INTO registry_garbage (org_id, path, removed_at)
SELECT s.org_id, s.path, CAST(sqlc.arg(now) AS BIGINT) FROM registry_segments s WHERE s.org_id = sqlc.arg(org_id) ON CONFLICT DO NOTHING;

-- name: DropOrgRegistryRefs :exec
DELETE FROM registry_refs WHERE org_id = $1;

-- name: DropOrgRegistryTags :exec
DELETE FROM registry_tags WHERE org_id = $1;

-- name: DropOrgRegistryManifests :exec
DELETE FROM registry_manifests WHERE org_id = $1;

-- name: DropOrgRegistryLinks :exec
DELETE FROM registry_links WHERE org_id = $1;

-- name: DropOrgRegistryBlobs :exec
DELETE FROM registry_blobs WHERE org_id = $1;

-- name: DropOrgRegistrySegments :exec
DELETE FROM registry_segments WHERE org_id = $1;

-- name: DropOrgRegistryUploads :exec
DELETE FROM registry_uploads WHERE org_id = $1;

-- name: DropOrgRegistryRepos :exec
DELETE FROM registry_repos WHERE org_id = $1;

-- name: DropOrgRegistryUsage :exec
DELETE FROM registry_usage WHERE org_id = $1;
