-- name: SecretNames :many
SELECT name, updated_at FROM secrets WHERE org_id = $1 ORDER BY name;

-- name: DeleteSecret :execrows
DELETE FROM secrets WHERE org_id = $1 AND name = $2;
