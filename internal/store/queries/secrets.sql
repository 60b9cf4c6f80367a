-- name: SecretNames :many
SELECT name, updated_at FROM secrets WHERE org_id = $1 ORDER BY name;

-- name: DeleteSecret :execrows
DELETE FROM secrets WHERE org_id = $1 AND name = $2;

-- name: SealedSecrets :many
SELECT org_id, name, sealed FROM secrets WHERE org_id > $1 OR (org_id = $1 AND name > $2) ORDER BY org_id, name LIMIT $3;

-- name: ReplaceSealed :execrows
UPDATE secrets SET sealed = sqlc.arg(anew) WHERE org_id = sqlc.arg(org_id) AND name = sqlc.arg(name) AND sealed = sqlc.arg(old);

-- name: CreateSecret :execrows
INSERT INTO secrets (org_id, name, sealed, updated_at) VALUES ($1, $2, $3, $4) ON CONFLICT (org_id, name) DO NOTHING;
