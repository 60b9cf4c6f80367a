-- +goose Up

-- A job's row is rewritten at each change of its state. It stays cheap as long
-- as no index has to be: what changes with the state is in small tables of its
-- own, and the index of open jobs rests on what changes once, at the end.
DROP INDEX jobs_open_page;
CREATE INDEX jobs_open_page ON jobs (org_id, id) WHERE finished_at = 0;
DROP INDEX jobs_unschedulable;
DROP INDEX jobs_due;

ALTER TABLE jobs ADD COLUMN priority   BIGINT NOT NULL DEFAULT 0;  -- among the jobs of its org
ALTER TABLE jobs ADD COLUMN fair_cost  BIGINT NOT NULL DEFAULT 0;  -- what its flow was charged for it
ALTER TABLE jobs ADD COLUMN limit_keys TEXT   NOT NULL DEFAULT ''; -- JSON: the limits that it holds a place of

-- Jobs that no host can run, as their state says.
CREATE TABLE stuck (
    job_id      TEXT PRIMARY KEY,
    class_id    TEXT NOT NULL,
    reason_code TEXT NOT NULL
);
CREATE INDEX stuck_class ON stuck (class_id, reason_code);
INSERT INTO stuck (job_id, class_id, reason_code)
SELECT id, class_id, reason_code FROM jobs WHERE finished_at = 0 AND state = 'unschedulable';

-- When the state of an unfinished job has lasted too long: jobs.due_at, or
-- earlier where that has moved away since.
CREATE TABLE deadlines (
    job_id TEXT   PRIMARY KEY,
    due_at BIGINT NOT NULL
);
CREATE INDEX deadlines_due ON deadlines (due_at);
INSERT INTO deadlines (job_id, due_at) SELECT id, due_at FROM jobs WHERE finished_at = 0 AND due_at > 0;

ALTER TABLE backlog ADD COLUMN priority BIGINT NOT NULL DEFAULT 0;
DROP INDEX backlog_flow;
CREATE INDEX backlog_flow ON backlog (class_id, org_id, priority, repo_id, job_id);
ALTER TABLE queue ADD COLUMN org_id TEXT NOT NULL DEFAULT '';

-- Weight is in percent of an org's or a repo's usual share; expected is what a
-- job of the flow is taken to cost until it is known, in CPU-milliseconds.
DROP INDEX flows_tag;
ALTER TABLE flows ADD COLUMN weight   BIGINT NOT NULL DEFAULT 100;
ALTER TABLE flows ADD COLUMN expected BIGINT NOT NULL DEFAULT 0;

-- The virtual time: the highest rank that was ever claimed.
ALTER TABLE fence ADD COLUMN vtime BIGINT NOT NULL DEFAULT 0;

-- How many jobs of an org, of one of its repos or with a label may be on hosts
-- or about to be, at once.
CREATE TABLE limits (
    id     TEXT   PRIMARY KEY, -- org id, kind and name
    org_id TEXT   NOT NULL REFERENCES orgs (id),
    kind   TEXT   NOT NULL,    -- org, repo, label
    name   TEXT   NOT NULL,    -- of the repo or label, lower case
    most   BIGINT NOT NULL,
    used   BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX limits_org ON limits (org_id);

-- The SHA-256 of the token that an attempt calls Nimbus with. It works while
-- the attempt is live and proved to run its job, and so needs no other state.
ALTER TABLE attempts ADD COLUMN token_hash TEXT NOT NULL DEFAULT '';
CREATE UNIQUE INDEX attempts_token ON attempts (token_hash) WHERE token_hash <> '';

-- Hosts are kept in memory by each replica, which reads what changed since.
ALTER TABLE hosts ADD COLUMN changed_at BIGINT NOT NULL DEFAULT 0;
CREATE INDEX hosts_changed ON hosts (changed_at);

-- Who does the background work. The fence only grows.
CREATE TABLE leaders (
    name       TEXT   PRIMARY KEY,
    holder     TEXT   NOT NULL,
    fence      BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
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
       COALESCE(a.log_complete, FALSE) AS log_complete
FROM jobs LEFT JOIN attempts a ON a.id = jobs.attempt_id;

-- Logs and workspaces of the scale profile, where replicas have no disk in
-- common. Pages of a log are contiguous; a blob is there once it has a row in
-- blobs.
CREATE TABLE log_pages (
    attempt_id TEXT   NOT NULL,
    first_seq  BIGINT NOT NULL,
    last_seq   BIGINT NOT NULL,
    org_id     TEXT   NOT NULL,
    lines      BYTEA  NOT NULL, -- zstd of JSON lines
    PRIMARY KEY (attempt_id, first_seq)
);
CREATE TABLE blobs (
    key      TEXT   PRIMARY KEY,
    id       TEXT   NOT NULL, -- of its chunks
    size     BIGINT NOT NULL,
    sha256   TEXT   NOT NULL,
    added_at BIGINT NOT NULL
);
CREATE TABLE blob_chunks (
    id   TEXT   NOT NULL,
    n    BIGINT NOT NULL,
    body BYTEA  NOT NULL,
    PRIMARY KEY (id, n)
);
CREATE INDEX blobs_id ON blobs (id);
