-- name: RunnerReleases :many
SELECT * FROM runner_releases ORDER BY api_url;

-- name: SaveRunnerReleases :exec
INSERT INTO runner_releases (api_url, releases, checked_at, trouble) VALUES ($1, $2, $3, $4)
ON CONFLICT (api_url) DO UPDATE SET releases = excluded.releases, checked_at = excluded.checked_at, trouble = excluded.trouble;

-- name: ForgetRunnerReleases :exec
DELETE FROM runner_releases WHERE api_url = $1;
