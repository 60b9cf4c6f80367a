-- name: EnsureClass :exec
INSERT INTO classes (id, spec) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING;

-- name: EnterBacklog :exec
INSERT INTO backlog (job_id, class_id, org_id, repo_id) VALUES ($1, $2, $3, $4);

-- name: LeaveBacklog :exec
DELETE FROM backlog WHERE job_id = $1;

-- name: EnterQueue :exec
INSERT INTO queue (job_id, class_id, fair_rank) VALUES ($1, $2, $3);

-- name: LeaveQueue :exec
DELETE FROM queue WHERE job_id = $1;

-- name: QueueLength :one
SELECT COUNT(*) FROM queue WHERE class_id = $1;

-- name: QueuedClasses :many
SELECT spec FROM classes WHERE id IN (SELECT class_id FROM queue);

-- name: WaitingClasses :many
SELECT spec FROM classes
WHERE id IN (SELECT class_id FROM queue)
   OR id IN (SELECT class_id FROM backlog)
   OR id IN (SELECT class_id FROM jobs WHERE state = 'unschedulable');

-- name: WaitingJobs :many
SELECT job_id FROM queue WHERE queue.class_id = $1
UNION ALL SELECT job_id FROM backlog WHERE backlog.class_id = $1
LIMIT $2;

-- name: UnschedulableJobs :many
SELECT id FROM jobs WHERE state = 'unschedulable' AND class_id = $1 AND reason_code = $2 LIMIT $3;

-- name: BacklogFlows :many
SELECT org_id, repo_id FROM backlog WHERE class_id = $1 GROUP BY org_id, repo_id;

-- name: Flow :one
SELECT tag, vtime FROM flows WHERE id = $1;

-- name: SaveFlow :exec
INSERT INTO flows (id, parent, tag, vtime) VALUES ($1, $2, $3, $4)
ON CONFLICT (id) DO UPDATE SET tag = excluded.tag, vtime = excluded.vtime;

-- name: LowestRank :one
SELECT fair_rank FROM queue ORDER BY fair_rank LIMIT 1;

-- name: HighestTag :one
SELECT tag FROM flows WHERE parent = '' ORDER BY tag DESC LIMIT 1;

-- name: MintFence :one
UPDATE fence SET last = last + 1 WHERE one = 1 RETURNING last;
