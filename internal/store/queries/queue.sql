-- name: QueuedClasses :many
-- From each class to the next by the index, so that the cost is that of the
-- classes, and dead rows are passed over for good.
WITH RECURSIVE queued (class_id) AS (
    SELECT (SELECT q.class_id FROM queue q ORDER BY q.class_id, q.fair_rank, q.job_id LIMIT 1)
    UNION ALL
    SELECT (SELECT q.class_id FROM queue q WHERE q.class_id > queued.class_id ORDER BY q.class_id, q.fair_rank, q.job_id LIMIT 1)
    FROM queued WHERE queued.class_id IS NOT NULL
)
SELECT CAST(class_id AS TEXT) AS class_id FROM queued WHERE class_id IS NOT NULL;

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
-- flows and not of the jobs that wait in them. Three questions, and not one
-- that compares rows: SQLite would look at each job of the flow to answer that.
WITH RECURSIVE flow (org_id, priority, repo_id) AS (
    SELECT f.org_id, f.priority, f.repo_id FROM backlog f WHERE f.job_id = (
        SELECT b.job_id FROM backlog b WHERE b.class_id = $1
        ORDER BY b.org_id, b.priority, b.repo_id, b.job_id LIMIT 1)
    UNION ALL
    SELECT n.org_id, n.priority, n.repo_id FROM flow JOIN backlog n ON n.job_id = COALESCE(
        (SELECT b.job_id FROM backlog b WHERE b.class_id = $1 AND b.org_id = flow.org_id AND b.priority = flow.priority
           AND b.repo_id > flow.repo_id ORDER BY b.repo_id, b.job_id LIMIT 1),
        (SELECT b.job_id FROM backlog b WHERE b.class_id = $1 AND b.org_id = flow.org_id AND b.priority > flow.priority
         ORDER BY b.priority, b.repo_id, b.job_id LIMIT 1),
        (SELECT b.job_id FROM backlog b WHERE b.class_id = $1 AND b.org_id > flow.org_id
         ORDER BY b.org_id, b.priority, b.repo_id, b.job_id LIMIT 1))
)
SELECT org_id, priority, repo_id FROM flow;

-- name: VirtualTime :one
SELECT vtime FROM fence;

-- name: MintFences :one
UPDATE fence SET last = last + sqlc.arg(count),
       vtime = CASE WHEN vtime < sqlc.arg(rank) THEN sqlc.arg(rank) ELSE vtime END
WHERE one = 1 RETURNING last;

-- name: Window :many
SELECT job_id, org_id, fair_rank FROM queue WHERE class_id = $1 ORDER BY fair_rank, job_id LIMIT $2;

-- name: CountBacklog :one
-- How many of a flow come before a job, counted up to a bound.
SELECT COUNT(*) FROM (
    SELECT b.job_id FROM backlog b
    WHERE b.class_id = $1 AND b.org_id = $2 AND b.priority = $3 AND b.repo_id = $4 AND b.job_id < $5 LIMIT $6
) AS counted;

-- name: CountOrgBacklog :one
SELECT COUNT(*) FROM (SELECT b.job_id FROM backlog b WHERE b.class_id = $1 AND b.org_id = $2 LIMIT $3) AS counted;

-- name: CountOrgStuck :one
SELECT COUNT(*) FROM (SELECT s.job_id FROM stuck s WHERE s.class_id = $1 LIMIT $3) AS few
JOIN jobs ON jobs.id = few.job_id WHERE jobs.org_id = $2;

-- name: OldestPending :many
-- The first job of each of an org's flows in a class, from flow to flow by the
-- index.
WITH RECURSIVE flow (priority, repo_id, job_id) AS (
    SELECT f.priority, f.repo_id, f.job_id FROM backlog f WHERE f.job_id = (
        SELECT b.job_id FROM backlog b WHERE b.class_id = $1 AND b.org_id = $2
        ORDER BY b.priority, b.repo_id, b.job_id LIMIT 1)
    UNION ALL
    SELECT n.priority, n.repo_id, n.job_id FROM flow JOIN backlog n ON n.job_id = (
        SELECT b.job_id FROM backlog b WHERE b.class_id = $1 AND b.org_id = $2
          AND (b.priority, b.repo_id) > (flow.priority, flow.repo_id)
        ORDER BY b.priority, b.repo_id, b.job_id LIMIT 1)
)
SELECT job_id FROM flow LIMIT $3;

-- name: RunningJobs :many
-- The condition on the state is the index's own.
SELECT jobs.class_id, jobs.org_id, jobs.repo_id, attempts.host_id, attempts.accepted_at
FROM attempts JOIN jobs ON jobs.id = attempts.job_id
WHERE attempts.state IN ('offered', 'live') LIMIT $1;

-- name: Misplaced :many
-- Of so many unfinished jobs after one, which are not where their state says.
SELECT open.org_id, open.id,
       CAST(CASE open.state
           WHEN 'queued' THEN CASE WHEN EXISTS (SELECT 1 FROM queue WHERE queue.job_id = open.id) THEN 0 ELSE 1 END
           WHEN 'pending' THEN CASE WHEN EXISTS (SELECT 1 FROM backlog WHERE backlog.job_id = open.id) THEN 0 ELSE 1 END
           WHEN 'unschedulable' THEN CASE WHEN EXISTS (SELECT 1 FROM stuck WHERE stuck.job_id = open.id) THEN 0 ELSE 1 END
           ELSE 0 END AS BIGINT) AS misplaced
FROM (SELECT j.org_id, j.id, j.state FROM jobs j
      WHERE j.finished_at = 0 AND (j.org_id, j.id) > (sqlc.arg(org_id), sqlc.arg(id))
      ORDER BY j.org_id, j.id LIMIT $1) AS open
ORDER BY open.org_id, open.id;

-- name: InQueue :one
SELECT EXISTS (SELECT 1 FROM queue WHERE queue.job_id = $1);

-- name: InBacklog :one
SELECT EXISTS (SELECT 1 FROM backlog WHERE backlog.job_id = $1);

-- name: AmongStuck :one
SELECT EXISTS (SELECT 1 FROM stuck WHERE stuck.job_id = $1);
