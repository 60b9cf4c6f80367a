-- name: InsertChunk :exec
INSERT INTO blob_chunks (id, n, body) VALUES ($1, $2, $3);

-- name: Chunk :one
SELECT body FROM blob_chunks WHERE id = $1 AND n = $2;

-- name: PutBlob :exec
INSERT INTO blobs (key, id, size, sha256, added_at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (key) DO UPDATE SET id = excluded.id, size = excluded.size, sha256 = excluded.sha256, added_at = excluded.added_at;

-- name: Blob :one
SELECT id, size, sha256 FROM blobs WHERE key = $1;

-- name: DeleteBlob :exec
DELETE FROM blobs WHERE key = $1;

-- name: DeleteChunks :exec
DELETE FROM blob_chunks WHERE id = $1;

-- name: OrphanChunks :many
-- Ids of chunks that no blob has; ids grow with time.
SELECT DISTINCT c.id FROM blob_chunks c WHERE c.n = 0 AND c.id < $1
  AND NOT EXISTS (SELECT 1 FROM blobs b WHERE b.id = c.id) LIMIT $2;
