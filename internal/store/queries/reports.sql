-- name: FinishedRuns :many
-- The last jobs that ended within a part of the time.
SELECT j.id, j.name, j.repo, j.class, j.result, j.reason_code, j.queued_at, j.finished_at,
       COALESCE(a.accepted_at, 0) AS accepted_at, COALESCE(a.sandbox_ready_at, 0) AS sandbox_ready_at,
       COALESCE(a.running_at, 0) AS running_at, COALESCE(a.outcome, '') AS outcome, COALESCE(a.origin, '') AS origin
FROM jobs j LEFT JOIN attempts a ON a.id = j.attempt_id
WHERE j.org_id = $1 AND j.finished_at > 0 AND j.finished_at >= $2 AND j.finished_at < $3
ORDER BY j.finished_at DESC LIMIT $4;

-- name: HostJobs :many
-- The condition that seems to be in excess is the index's own.
SELECT a.host_id, a.id, a.job_id, a.org_id, a.accepted_at, j.name, j.repo, j.class,
       COALESCE(u.told_at, 0) AS told_at, COALESCE(u.cpu_milli, 0) AS cpu_milli, COALESCE(u.memory, 0) AS memory
FROM attempts a JOIN jobs j ON j.id = a.job_id LEFT JOIN attempt_usage u ON u.attempt_id = a.id
WHERE a.state IN ('offered', 'live') AND a.state = 'live' ORDER BY a.host_id, a.id LIMIT $1;
