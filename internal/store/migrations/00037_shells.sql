-- +goose Up

-- Shells that were opened in sandboxes.
CREATE TABLE shells (
    id            TEXT   PRIMARY KEY,
    org_id        TEXT   NOT NULL REFERENCES orgs (id),
    job_id        TEXT   NOT NULL REFERENCES jobs (id),
    attempt_id    TEXT   NOT NULL REFERENCES attempts (id),
    host_id       TEXT   NOT NULL REFERENCES hosts (id),
    actor         TEXT   NOT NULL,            -- who opened it
    came_from     TEXT   NOT NULL,            -- the address that it was opened from
    spec          TEXT   NOT NULL,            -- JSON
    state         TEXT   NOT NULL,            -- waiting, open, ended
    opened_at     BIGINT NOT NULL,
    ends_at       BIGINT NOT NULL,            -- at the latest
    attached_at   BIGINT NOT NULL DEFAULT 0,
    ended_at      BIGINT NOT NULL DEFAULT 0,
    active_at     BIGINT NOT NULL,            -- when something passed last
    user_seen_at  BIGINT NOT NULL,
    host_seen_at  BIGINT NOT NULL,
    ending        TEXT   NOT NULL DEFAULT '', -- JSON, once ended
    in_seq        BIGINT NOT NULL DEFAULT 0,  -- the last batch that was sent to the shell
    in_bytes      BIGINT NOT NULL DEFAULT 0,  -- of those that were not received yet
    out_seq       BIGINT NOT NULL DEFAULT 0,  -- the same of what came from it
    out_bytes     BIGINT NOT NULL DEFAULT 0,
    recorded      BIGINT NOT NULL DEFAULT 0   -- lines of the recording
);
CREATE INDEX shells_job ON shells (job_id, id);
CREATE INDEX shells_waiting ON shells (host_id) WHERE state = 'waiting';
CREATE INDEX shells_host ON shells (host_id) WHERE state <> 'ended';
CREATE INDEX shells_org ON shells (org_id) WHERE state <> 'ended';
CREATE INDEX shells_left ON shells (ended_at) WHERE out_bytes > 0;

-- What is on its way between a shell and who opened it, sealed.
CREATE TABLE shell_batches (
    shell_id TEXT   NOT NULL REFERENCES shells (id),
    side     TEXT   NOT NULL, -- in: to the shell; out: from it
    seq      BIGINT NOT NULL,
    body     BYTEA  NOT NULL,
    PRIMARY KEY (shell_id, side, seq)
);

-- A sandbox that is held after its job has failed: its attempt is live, and has
-- an outcome.
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
       CASE WHEN a.state = 'live' AND a.outcome <> '' THEN a.stop_at ELSE 0 END AS held_until,
       COALESCE(a.outcome, '')         AS outcome
FROM jobs LEFT JOIN attempts a ON a.id = jobs.attempt_id;
