-- name: SaveNotice :exec
UPDATE notices SET due_at = $2, tries = $3, check_id = $4, said = $5 WHERE job_id = $1;

-- name: Notice :one
SELECT * FROM notices WHERE job_id = $1;

-- name: DueNotices :many
SELECT job_id FROM notices WHERE due_at > 0 AND due_at <= $1 ORDER BY due_at LIMIT $2;
