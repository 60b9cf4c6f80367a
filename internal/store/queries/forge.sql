-- name: PurgeDeliveries :execrows
DELETE FROM deliveries WHERE id IN (SELECT id FROM deliveries d WHERE d.received_at < $1 ORDER BY d.received_at LIMIT $2);

-- name: PurgeForgeJobs :execrows
DELETE FROM forge_jobs WHERE github_job_id IN (
    SELECT f.github_job_id FROM forge_jobs f WHERE f.updated_at < $1 ORDER BY f.updated_at LIMIT $2);
