-- +goose Up

-- What attempts used of their hosts over their time: one compact row each, see
-- nimbus.UsageSeries.
CREATE TABLE attempt_usage (
    attempt_id TEXT   PRIMARY KEY REFERENCES attempts (id),
    org_id     TEXT   NOT NULL,
    told_at    BIGINT NOT NULL,
    cpu_milli  BIGINT NOT NULL, -- in use at its end, in thousandths of a CPU
    memory     BIGINT NOT NULL, -- in use at its end, bytes
    series     BYTEA  NOT NULL
);

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
       COALESCE(a.log_complete, FALSE) AS log_complete,
       COALESCE(a.outcome, '')         AS outcome
FROM jobs LEFT JOIN attempts a ON a.id = jobs.attempt_id;
