-- name: RegistryMirrors :many
SELECT * FROM registry_mirrors WHERE org_id = $1 ORDER BY name LIMIT $2;

-- name: LockRegistryMirror :one
-- Whoever keeps something of a mirror holds its row: it does not go meanwhile.
UPDATE registry_mirrors SET name = name WHERE org_id = $1 AND name = $2 RETURNING *;

-- name: PutRegistryMirror :exec
INSERT INTO registry_mirrors (org_id, name, upstream, username, secret, allowed, since, changed_at, changed_by, clearing)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (org_id, name) DO UPDATE SET upstream = excluded.upstream, username = excluded.username, secret = excluded.secret, allowed = excluded.allowed,
  since = excluded.since, changed_at = excluded.changed_at, changed_by = excluded.changed_by, clearing = excluded.clearing,
  failure = '', failed_at = 0, limited_until = 0, spent_until = 0;

-- name: RegistryMirrorCleared :exec
UPDATE registry_mirrors SET clearing = FALSE, changed_at = changed_at + 1 WHERE org_id = sqlc.arg(org_id) AND name = sqlc.arg(name) AND since = sqlc.arg(since);

-- name: DropRegistryMirror :exec
DELETE FROM registry_mirrors WHERE org_id = $1 AND name = $2;

-- name: NoteRegistryMirror :exec
-- When it began to fail stays while it does, and what another replica has heard of
-- pauses stays too.
UPDATE registry_mirrors SET failed_at = CASE WHEN failure <> '' AND sqlc.arg(failure) <> '' THEN failed_at ELSE sqlc.arg(failed_at) END,
  failure = sqlc.arg(failure),
  limited_until = CASE WHEN limited_until > sqlc.arg(limited_until) THEN limited_until ELSE sqlc.arg(limited_until) END,
  spent_until = CASE WHEN spent_until > sqlc.arg(spent_until) THEN spent_until ELSE sqlc.arg(spent_until) END
WHERE org_id = sqlc.arg(org_id) AND name = sqlc.arg(name) AND since = sqlc.arg(since);

-- name: RegistryImagesBelow :one
-- Blobs that nobody wants any more are not counted.
SELECT CAST(
  EXISTS (SELECT 1 FROM registry_manifests m WHERE m.org_id = sqlc.arg(org_id) AND substr(m.repo, 1, CAST(sqlc.arg(length) AS INTEGER)) = CAST(sqlc.arg(prefix) AS TEXT))
  OR EXISTS (SELECT 1 FROM registry_links l WHERE l.org_id = sqlc.arg(org_id) AND l.used_at > 0 AND substr(l.repo, 1, CAST(sqlc.arg(length) AS INTEGER)) = CAST(sqlc.arg(prefix) AS TEXT))
AS BOOLEAN);

-- name: DropRegistryReposBelow :exec
DELETE FROM registry_repos WHERE org_id = sqlc.arg(org_id) AND substr(repo, 1, CAST(sqlc.arg(length) AS INTEGER)) = CAST(sqlc.arg(prefix) AS TEXT);

-- name: RegistryMirrorRepos :one
SELECT COUNT(*) FROM (
  SELECT repo FROM registry_manifests WHERE registry_manifests.org_id = sqlc.arg(org_id) AND substr(repo, 1, CAST(sqlc.arg(length) AS INTEGER)) = CAST(sqlc.arg(prefix) AS TEXT)
  UNION SELECT repo FROM registry_links WHERE registry_links.org_id = sqlc.arg(org_id) AND substr(repo, 1, CAST(sqlc.arg(length) AS INTEGER)) = CAST(sqlc.arg(prefix) AS TEXT)
) AS here;

-- name: RegistryMirrorBytes :one
SELECT CAST(COALESCE(SUM(b.size), 0) AS BIGINT) FROM registry_links l
JOIN registry_blobs b ON b.org_id = l.org_id AND b.digest = l.digest
WHERE l.org_id = sqlc.arg(org_id) AND substr(l.repo, 1, CAST(sqlc.arg(length) AS INTEGER)) = CAST(sqlc.arg(prefix) AS TEXT);

-- name: RegistryMirrorTag :one
SELECT digest, updated_at FROM registry_tags WHERE org_id = $1 AND repo = $2 AND tag = $3;

-- name: RenewRegistryTag :exec
UPDATE registry_tags SET updated_at = sqlc.arg(now) WHERE org_id = sqlc.arg(org_id) AND repo = sqlc.arg(repo) AND tag = sqlc.arg(tag) AND digest = sqlc.arg(digest);

-- name: OldestRegistryLinks :many
SELECT l.repo, l.digest, l.used_at, b.size FROM registry_links l JOIN registry_blobs b ON b.org_id = l.org_id AND b.digest = l.digest
WHERE l.org_id = $1 ORDER BY l.used_at, l.repo, l.digest LIMIT $2;

-- name: OldestRegistryManifests :many
SELECT repo, digest, used_at, size FROM registry_manifests WHERE org_id = $1 ORDER BY used_at, repo, digest LIMIT $2;

-- name: UnusedRegistryMirrored :many
SELECT m.org_id, m.repo, m.digest, m.used_at FROM registry_manifests m
WHERE m.used_at < sqlc.arg(used_before) AND m.org_id LIKE '%.mirror'
  AND EXISTS (SELECT 1 FROM registry_tags t WHERE t.org_id = m.org_id AND t.repo = m.repo AND t.digest = m.digest)
ORDER BY m.used_at, m.org_id, m.repo, m.digest LIMIT sqlc.arg(most);

-- name: RegistryManifestsBelow :many
SELECT repo, digest FROM registry_manifests WHERE org_id = sqlc.arg(org_id) AND substr(repo, 1, CAST(sqlc.arg(length) AS INTEGER)) = CAST(sqlc.arg(prefix) AS TEXT) LIMIT sqlc.arg(most);

-- name: RegistryLinksBelow :many
SELECT repo, digest FROM registry_links WHERE org_id = sqlc.arg(org_id) AND substr(repo, 1, CAST(sqlc.arg(length) AS INTEGER)) = CAST(sqlc.arg(prefix) AS TEXT) LIMIT sqlc.arg(most);

-- name: DropOrgRegistryMirrors :exec
DELETE FROM registry_mirrors WHERE org_id = $1;

-- name: DropOrgMirrorSecrets :exec
DELETE FROM secrets WHERE org_id = $1 AND name LIKE 'registry-mirror/%';
