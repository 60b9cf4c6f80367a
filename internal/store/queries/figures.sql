-- name: WaitingDepths :many
-- Ids sort by the time at which a job was admitted.
SELECT 'queued' AS state, classes.spec, COUNT(*) AS jobs, CAST(MIN(queue.job_id) AS TEXT) AS oldest
FROM queue JOIN classes ON classes.id = queue.class_id GROUP BY classes.id, classes.spec
UNION ALL
SELECT 'pending' AS state, classes.spec, COUNT(*) AS jobs, CAST(MIN(backlog.job_id) AS TEXT) AS oldest
FROM backlog JOIN classes ON classes.id = backlog.class_id GROUP BY classes.id, classes.spec
UNION ALL
SELECT 'unschedulable' AS state, classes.spec, COUNT(*) AS jobs, CAST(MIN(stuck.job_id) AS TEXT) AS oldest
FROM stuck JOIN classes ON classes.id = stuck.class_id GROUP BY classes.id, classes.spec;

-- name: CountHosts :one
SELECT COUNT(*) AS hosts, CAST(COALESCE(SUM(CASE WHEN seen_at < $1 THEN 1 ELSE 0 END), 0) AS BIGINT) AS away
FROM hosts WHERE removed_at = 0;

-- name: WarmHosts :many
SELECT warm FROM hosts WHERE removed_at = 0 AND seen_at >= $1 AND warm <> '';

-- name: ClassSpec :one
SELECT spec FROM classes WHERE id = $1;

-- name: ClosedHosts :many
SELECT closed, COUNT(*) AS hosts FROM hosts WHERE removed_at = 0 AND seen_at >= $1 AND closed <> '' GROUP BY closed;
