-- +goose Up

-- Which job a job runs again, and what its idempotency key was used for.
ALTER TABLE jobs ADD COLUMN rerun_of       TEXT NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN idempotent_sum TEXT NOT NULL DEFAULT '';

-- The start tag that a flow's last job was given, which no later one's is below:
-- what a flow is given back for jobs that took less than expected must not let
-- the next ones in among those that have their ranks already.
ALTER TABLE flows ADD COLUMN last_start BIGINT NOT NULL DEFAULT 0;

-- Flows that were given a weight: few of many.
CREATE INDEX flows_weighted ON flows (parent, id) WHERE weight <> 100;

-- A limit that is dropped and made anew is another one: jobs give back the
-- place of that which they took one of. Its name is its key from now on.
DROP INDEX limits_org;
CREATE UNIQUE INDEX limits_name ON limits (org_id, kind, name);

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
