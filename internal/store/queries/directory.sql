-- name: InsertOrg :exec
INSERT INTO orgs (id, name, created_at) VALUES ($1, $2, $3);

-- name: OrgByIDOrName :one
SELECT * FROM orgs WHERE (id = $1 OR name = $1) AND removed_at = 0;

-- name: OrgsPage :many
SELECT * FROM orgs WHERE removed_at = 0 AND id > $1 ORDER BY id LIMIT $2;

-- name: DeleteOrg :execrows
-- Its name is free again.
UPDATE orgs SET removed_at = $2, name = id WHERE id = $1 AND removed_at = 0;

-- name: OrgHasHistory :one
SELECT CAST(EXISTS (SELECT 1 FROM jobs WHERE jobs.org_id = $1) OR EXISTS (SELECT 1 FROM repos WHERE repos.org_id = $1) AS BOOLEAN);

-- name: DropOrgMembers :exec
DELETE FROM memberships WHERE org_id = $1;

-- name: DropOrgAccounts :exec
DELETE FROM service_accounts WHERE org_id = $1;

-- name: DropOrgLimits :exec
DELETE FROM limits WHERE org_id = $1;

-- name: RevokeOrgTokens :exec
UPDATE tokens SET state = 'revoked', revoked_at = $2 WHERE org_id = $1 AND state = 'active';

-- name: InsertOwner :exec
INSERT INTO owners (name, org_id, created_at) VALUES ($1, $2, $3);

-- name: OwnersOf :many
SELECT name FROM owners WHERE org_id = $1 ORDER BY name;

-- name: OrgOfOwner :one
SELECT org_id FROM owners WHERE name = $1;

-- name: DropOwners :exec
DELETE FROM owners WHERE org_id = $1;

-- name: ReposPage :many
SELECT * FROM repos WHERE org_id = $1 AND id > $2 ORDER BY id LIMIT $3;

-- name: MoveRepo :one
UPDATE repos SET org_id = sqlc.arg(org_id) WHERE id = sqlc.arg(repo) OR name = sqlc.arg(repo) RETURNING *;

-- name: InsertUser :exec
INSERT INTO users (id, email, name, platform_admin, created_at) VALUES ($1, $2, $3, $4, $5);

-- name: UserByIDOrEmail :one
SELECT * FROM users WHERE (id = $1 OR email = $1) AND removed_at = 0;

-- name: UsersPage :many
SELECT * FROM users WHERE removed_at = 0 AND id > $1 ORDER BY id LIMIT $2;

-- name: SetPlatformAdmin :execrows
UPDATE users SET platform_admin = $2 WHERE id = $1 AND removed_at = 0;

-- name: RemoveUser :execrows
UPDATE users SET removed_at = $2, platform_admin = FALSE WHERE id = $1 AND removed_at = 0;

-- name: DropMemberships :exec
DELETE FROM memberships WHERE user_id = $1;

-- name: PutMember :exec
INSERT INTO memberships (org_id, user_id, role, created_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (org_id, user_id) DO UPDATE SET role = excluded.role;

-- name: DropMember :execrows
DELETE FROM memberships WHERE org_id = $1 AND user_id = $2;

-- name: Membership :one
SELECT m.*, u.email, u.name, o.name AS org_name FROM memberships m
JOIN users u ON u.id = m.user_id JOIN orgs o ON o.id = m.org_id
WHERE m.org_id = $1 AND m.user_id = $2;

-- name: MembersPage :many
SELECT m.*, u.email, u.name, o.name AS org_name FROM memberships m
JOIN users u ON u.id = m.user_id JOIN orgs o ON o.id = m.org_id
WHERE m.org_id = $1 AND m.user_id > $2 ORDER BY m.user_id LIMIT $3;

-- name: MembershipsOf :many
SELECT m.*, u.email, u.name, o.name AS org_name FROM memberships m
JOIN users u ON u.id = m.user_id JOIN orgs o ON o.id = m.org_id
WHERE m.user_id = $1 ORDER BY m.created_at, m.org_id LIMIT $2;

-- name: InsertAccount :exec
INSERT INTO service_accounts (id, org_id, name, role, created_at, created_by) VALUES ($1, $2, $3, $4, $5, $6);

-- name: Account :one
SELECT a.*, o.name AS org_name FROM service_accounts a JOIN orgs o ON o.id = a.org_id WHERE a.id = $1;

-- name: AccountsPage :many
SELECT * FROM service_accounts WHERE org_id = $1 AND id > $2 ORDER BY id LIMIT $3;

-- name: DeleteAccount :execrows
DELETE FROM service_accounts WHERE org_id = $1 AND id = $2;

-- name: OrgOf :one
-- All of it is looked at, whatever is found: how long it takes tells nothing.
SELECT CAST(COALESCE(MAX(x.org_id), '') AS TEXT) FROM (
    SELECT j.org_id FROM jobs j WHERE j.id = $1
    UNION ALL SELECT a.org_id FROM attempts a WHERE a.id = $1
    UNION ALL SELECT s.org_id FROM shells s WHERE s.id = $1
    UNION ALL SELECT r.org_id FROM repos r WHERE r.id = $1 OR r.name = $1
    UNION ALL SELECT s.org_id FROM service_accounts s WHERE s.id = $1
    UNION ALL SELECT t.org_id FROM tokens t WHERE t.id = $1
    UNION ALL SELECT o.id FROM orgs o WHERE (o.id = $1 OR o.name = $1) AND o.removed_at = 0
) x;
