-- name: OrgRates :many
SELECT * FROM org_rates ORDER BY org_id, kind;

-- name: RatesOfOrg :many
SELECT * FROM org_rates WHERE org_id = $1 ORDER BY kind;

-- name: SetOrgRate :exec
INSERT INTO org_rates (org_id, kind, rate) VALUES ($1, $2, $3) ON CONFLICT (org_id, kind) DO UPDATE SET rate = excluded.rate;

-- name: DropOrgRate :execrows
DELETE FROM org_rates WHERE org_id = $1 AND kind = $2;

-- name: DropOrgRates :exec
DELETE FROM org_rates WHERE org_id = $1;

-- name: OwnersOfOrgs :many
SELECT name, org_id FROM owners ORDER BY name;
