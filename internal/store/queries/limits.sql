-- name: SetLimit :exec
INSERT INTO limits (id, org_id, kind, name, most) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (org_id, kind, name) DO UPDATE SET most = excluded.most;

-- name: DropLimit :execrows
DELETE FROM limits WHERE org_id = $1 AND kind = $2 AND name = $3;

-- name: LimitsOf :many
SELECT * FROM limits WHERE org_id = $1 ORDER BY kind, name;

-- name: FullLimits :many
-- From each org to the next; there are as many limits as people have set.
SELECT DISTINCT org_id FROM limits WHERE used >= most AND org_id > $1 ORDER BY org_id LIMIT $2;

-- name: CountLimits :one
SELECT COUNT(*) FROM limits WHERE org_id = $1;

-- name: SetWeight :exec
INSERT INTO flows (id, parent, tag, vtime, weight) VALUES ($1, $2, 0, 0, $3)
ON CONFLICT (id) DO UPDATE SET weight = excluded.weight;

-- name: OrgWeight :one
SELECT weight FROM flows WHERE id = $1;

-- name: RepoWeights :many
-- Of an org's repos that were given one, by name.
SELECT repos.name, flows.weight FROM flows JOIN repos ON flows.id = flows.parent || '/' || repos.id
WHERE flows.parent = $1 AND flows.weight <> 100 AND repos.org_id = $1 AND repos.name > $2
ORDER BY repos.name LIMIT $3;

-- name: RepoOfOrg :one
SELECT id FROM repos WHERE name = $1 AND org_id = $2;
