-- name: GitHubRun :one
SELECT origin FROM github_runs WHERE org_id = $1 AND repo = $2 AND run_id = $3;

-- name: SaveGitHubRun :exec
INSERT INTO github_runs (org_id, repo, run_id, origin, asked_at) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (org_id, repo, run_id) DO NOTHING;

-- name: ForgetGitHubRuns :exec
DELETE FROM github_runs WHERE asked_at IN (SELECT r.asked_at FROM github_runs r WHERE r.asked_at < $1 ORDER BY r.asked_at LIMIT 100);

-- name: DropOrgGitHubRuns :exec
DELETE FROM github_runs WHERE org_id = $1;

-- name: OrgCacheOff :one
SELECT count(*) FROM org_cache_off WHERE org_id = $1;

-- name: SetOrgCacheOff :exec
INSERT INTO org_cache_off (org_id) VALUES ($1) ON CONFLICT (org_id) DO NOTHING;

-- name: SetOrgCacheOn :exec
DELETE FROM org_cache_off WHERE org_id = $1;
