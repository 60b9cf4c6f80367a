-- name: QueueHead :one
-- How many jobs of a class hosts can claim, the highest rank among them, and
-- whether there are more behind.
SELECT (SELECT COUNT(*) FROM queue WHERE queue.class_id = $1) AS length,
       CAST((SELECT COALESCE(MAX(queue.fair_rank), 0) FROM queue WHERE queue.class_id = $1) AS BIGINT) AS highest,
       EXISTS (SELECT 1 FROM backlog WHERE backlog.class_id = $1) AS backlog;

-- name: QueuedClasses :many
SELECT DISTINCT class_id FROM queue;

-- name: WaitingClasses :many
SELECT spec FROM classes
WHERE id IN (SELECT class_id FROM queue)
   OR id IN (SELECT class_id FROM backlog)
   OR id IN (SELECT class_id FROM stuck);

-- name: WaitingJobs :many
SELECT job_id FROM queue WHERE queue.class_id = $1
UNION ALL SELECT job_id FROM backlog WHERE backlog.class_id = $1
LIMIT $2;

-- name: StuckJobs :many
SELECT job_id FROM stuck WHERE class_id = $1 AND reason_code = $2 LIMIT $3;

-- name: BacklogFlows :many
-- From each flow to the next by the index, so that the cost is that of the
-- flows and not of the jobs that wait in them.
WITH RECURSIVE flow (org_id, priority, repo_id) AS (
    SELECT f.org_id, f.priority, f.repo_id FROM backlog f WHERE f.job_id = (
        SELECT b.job_id FROM backlog b WHERE b.class_id = $1
        ORDER BY b.org_id, b.priority, b.repo_id, b.job_id LIMIT 1)
    UNION ALL
    SELECT n.org_id, n.priority, n.repo_id FROM flow JOIN backlog n ON n.job_id = (
        SELECT b.job_id FROM backlog b WHERE b.class_id = $1
          AND (b.org_id, b.priority, b.repo_id) > (flow.org_id, flow.priority, flow.repo_id)
        ORDER BY b.org_id, b.priority, b.repo_id, b.job_id LIMIT 1)
)
SELECT org_id, priority, repo_id FROM flow;

-- name: VirtualTime :one
SELECT vtime FROM fence;

-- name: MintFences :one
UPDATE fence SET last = last + sqlc.arg(count),
       vtime = CASE WHEN vtime < sqlc.arg(rank) THEN sqlc.arg(rank) ELSE vtime END
WHERE one = 1 RETURNING last;
