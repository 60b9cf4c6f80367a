-- name: AttemptUsage :one
-- The attempt that is asked for, or the current or last one of a job.
SELECT a.id, a.outcome, u.series FROM jobs j JOIN attempts a ON a.job_id = j.id
LEFT JOIN attempt_usage u ON u.attempt_id = a.id AND u.org_id = j.org_id
WHERE j.org_id = $1 AND j.id = $2 AND a.id = $3;

-- name: CurrentAttempt :one
SELECT attempt_id FROM jobs WHERE org_id = $1 AND id = $2;
