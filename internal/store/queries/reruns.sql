-- name: RerunPolicy :one
SELECT * FROM rerun_policies WHERE org_id = $1;

-- name: SetRerunPolicy :exec
INSERT INTO rerun_policies (org_id, per_run, per_hour) VALUES ($1, $2, $3)
ON CONFLICT (org_id) DO UPDATE SET per_run = excluded.per_run, per_hour = excluded.per_hour;

-- name: DropOrgRerunPolicy :exec
DELETE FROM rerun_policies WHERE org_id = $1;

-- name: InsertRerun :exec
INSERT INTO reruns (repo_id, run_id, run_attempt, org_id, state, due_at, tries, made_at, asked_at, why)
VALUES ($1, $2, $3, $4, 'waiting', $5, 0, $6, 0, '')
ON CONFLICT (repo_id, run_id, run_attempt) DO NOTHING;

-- name: InsertRerunJob :exec
INSERT INTO rerun_jobs (job_id, org_id, repo_id, run_id, run_attempt) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (job_id) DO NOTHING;

-- name: DropRerunJob :exec
DELETE FROM rerun_jobs WHERE job_id = $1;

-- name: DueReruns :many
SELECT repo_id, run_id, run_attempt FROM reruns WHERE due_at > 0 AND due_at <= $1 ORDER BY due_at LIMIT $2;

-- name: TakeRerun :execrows
UPDATE reruns SET due_at = $4, tries = tries + 1
WHERE repo_id = $1 AND run_id = $2 AND run_attempt = $3 AND due_at > 0 AND due_at <= $5;

-- name: Rerun :one
SELECT * FROM reruns WHERE repo_id = $1 AND run_id = $2 AND run_attempt = $3;

-- name: SaveRerun :execrows
UPDATE reruns SET state = $4, due_at = $5, asked_at = $6, why = $7
WHERE repo_id = $1 AND run_id = $2 AND run_attempt = $3 AND tries = $8;

-- name: RerunJobs :many
SELECT job_id FROM rerun_jobs WHERE repo_id = $1 AND run_id = $2 AND run_attempt = $3 ORDER BY job_id LIMIT $4;

-- name: RerunOfJob :one
SELECT reruns.* FROM rerun_jobs JOIN reruns ON reruns.repo_id = rerun_jobs.repo_id AND reruns.run_id = rerun_jobs.run_id
    AND reruns.run_attempt = rerun_jobs.run_attempt
WHERE rerun_jobs.job_id = $1;

-- name: CountReruns :one
-- Those of an org since a time, and of one run among all.
SELECT COUNT(*) FROM reruns WHERE org_id = $1 AND asked_at > $2 AND state IN ('asking', 'done');

-- name: CountOrgTriesAnew :one
SELECT COUNT(*) FROM tries_anew WHERE org_id = $1 AND tried_at > $2;

-- name: CountTriesAnew :one
SELECT COUNT(*) FROM tries_anew WHERE job_id = $1;

-- name: InsertTryAnew :exec
INSERT INTO tries_anew (job_id, nth, org_id, tried_at) VALUES ($1, $2, $3, $4);

-- name: CancelRerun :exec
-- Of one that nobody began to ask for; who looks at it just now finds that it has changed.
UPDATE reruns SET state = 'dropped', due_at = 0, why = $4, tries = tries + 1
WHERE repo_id = $1 AND run_id = $2 AND run_attempt = $3 AND state = 'waiting';

-- name: CountRunReruns :one
SELECT COUNT(*) FROM reruns WHERE repo_id = $1 AND run_id = $2 AND asked_at > 0 AND state IN ('asking', 'done');

-- name: CountWaitingReruns :one
SELECT COUNT(*) FROM reruns WHERE org_id = $1 AND due_at > 0 AND state = 'waiting';
