-- name: EnsureRepo :exec
INSERT INTO repos (id, org_id, name, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT (name) DO NOTHING;

-- name: RepoByName :one
SELECT id, org_id FROM repos WHERE name = $1;

-- name: InsertDelivery :execrows
INSERT INTO deliveries (id, event, action, body_sha256, received_at, outcome)
VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING;

-- name: SetDeliveryOutcome :exec
UPDATE deliveries SET outcome = $2 WHERE id = $1;

-- name: AdvanceForgeJob :execrows
INSERT INTO forge_jobs (github_job_id, status, status_rank, conclusion, runner_name, updated_at)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (github_job_id) DO UPDATE
SET status = excluded.status, status_rank = excluded.status_rank, conclusion = excluded.conclusion,
    runner_name = excluded.runner_name, updated_at = excluded.updated_at
WHERE forge_jobs.status_rank < excluded.status_rank;

-- name: PurgeDeliveries :execrows
DELETE FROM deliveries WHERE id IN (SELECT id FROM deliveries d WHERE d.received_at < $1 ORDER BY d.received_at LIMIT $2);

-- name: PurgeForgeJobs :execrows
DELETE FROM forge_jobs WHERE github_job_id IN (
    SELECT f.github_job_id FROM forge_jobs f WHERE f.updated_at < $1 ORDER BY f.updated_at LIMIT $2);
