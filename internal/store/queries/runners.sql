-- name: RunnerPlaces :many
SELECT * FROM runner_places ORDER BY installation_id;

-- name: SaveRunnerPlace :exec
INSERT INTO runner_places (installation_id, organization, group_name, group_id, changed_at, app_id) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (installation_id) DO UPDATE SET organization = excluded.organization, group_name = excluded.group_name,
    group_id = excluded.group_id, changed_at = excluded.changed_at, app_id = excluded.app_id;

-- name: DropRunnerPlace :exec
DELETE FROM runner_places WHERE installation_id = $1;

-- name: ScaleSets :many
SELECT * FROM scale_sets ORDER BY id;

-- name: ScaleSet :one
SELECT * FROM scale_sets WHERE id = $1;

-- name: CreateScaleSet :execrows
INSERT INTO scale_sets (id, installation_id, organization, group_name, group_id, name, labels, max_runners, github_id, changed_at, app_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (installation_id, organization, name) DO NOTHING;

-- name: DeleteScaleSet :execrows
DELETE FROM scale_sets WHERE id = $1;

-- name: SaveScaleSetSession :exec
UPDATE scale_sets SET session = $2 WHERE id = $1;

-- name: SaveScaleSetState :exec
UPDATE scale_sets SET heard_at = $2, trouble = $3, assigned = $4, running = $5 WHERE id = $1;
