-- +goose Up

-- What labels and submissions keep with a job, as JSON; '' for nothing.
ALTER TABLE jobs ADD COLUMN metadata TEXT NOT NULL DEFAULT '';

-- What a host had free when it was seen, as JSON.
ALTER TABLE hosts ADD COLUMN free TEXT NOT NULL DEFAULT '';

-- Ids of the classes for which it then had sandboxes ready, one for each,
-- separated by spaces.
ALTER TABLE hosts ADD COLUMN warm TEXT NOT NULL DEFAULT '';

-- What jobs can be found by: their labels but those that nearly every job has,
-- and their metadata. Written once, with the job, and gone with it.
CREATE TABLE job_tags (
    job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    tag    TEXT NOT NULL,
    org_id TEXT NOT NULL,
    PRIMARY KEY (job_id, tag)
);
CREATE INDEX job_tags_page ON job_tags (org_id, tag, job_id);

-- Pages of the jobs of a repository, and of those that did not succeed.
CREATE INDEX jobs_repo_page ON jobs (org_id, repo_id, id) WHERE repo_id <> '';
CREATE INDEX jobs_result_page ON jobs (org_id, result, id) WHERE finished_at > 0 AND result <> 'success';

-- A view keeps the columns that its tables had when it was made.
DROP VIEW job_views;
CREATE VIEW job_views AS
SELECT jobs.*,
       COALESCE(a.host_id, '')         AS host_id,
       COALESCE(a.offered_at, 0)       AS offered_at,
       COALESCE(a.accepted_at, 0)      AS accepted_at,
       COALESCE(a.sandbox_ready_at, 0) AS sandbox_ready_at,
       COALESCE(a.running_at, 0)       AS running_at,
       COALESCE(a.first_output_at, 0)  AS first_output_at,
       COALESCE(a.destroyed_at, 0)     AS destroyed_at,
       a.exit_code                     AS exit_code,
       COALESCE(a.log_stored, 0)       AS log_stored,
       COALESCE(a.log_complete, FALSE) AS log_complete
FROM jobs LEFT JOIN attempts a ON a.id = jobs.attempt_id;
