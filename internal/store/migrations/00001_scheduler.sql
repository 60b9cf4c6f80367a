-- +goose Up

-- Ids are TEXT, times BIGINT microseconds since 1970 (0: has not happened), JSON
-- is TEXT and never queried.

CREATE TABLE orgs (
    id         TEXT   PRIMARY KEY,
    name       TEXT   NOT NULL UNIQUE,
    created_at BIGINT NOT NULL
);
INSERT INTO orgs (id, name, created_at) VALUES ('org_00000000000000000000000000', 'default', 0);

CREATE TABLE repos (
    id         TEXT   PRIMARY KEY,
    org_id     TEXT   NOT NULL REFERENCES orgs (id),
    name       TEXT   NOT NULL UNIQUE, -- "owner/name", lower case
    created_at BIGINT NOT NULL
);

CREATE TABLE classes (
    id   TEXT PRIMARY KEY,
    spec TEXT NOT NULL
);

CREATE TABLE hosts (
    id         TEXT   PRIMARY KEY,
    name       TEXT   NOT NULL,
    version    TEXT   NOT NULL,
    inventory  TEXT   NOT NULL,
    joined_at  BIGINT NOT NULL,
    seen_at    BIGINT NOT NULL,
    cool_until BIGINT NOT NULL DEFAULT 0 -- gets no offers before: it let one lapse
);

-- History of all jobs. What the queue needs is in tables of its own, so that a
-- claim never walks over finished jobs.
CREATE TABLE jobs (
    id              TEXT    PRIMARY KEY,
    org_id          TEXT    NOT NULL REFERENCES orgs (id),
    repo_id         TEXT    NOT NULL,      -- '' for a native job
    source          TEXT    NOT NULL,
    name            TEXT    NOT NULL,
    repo            TEXT    NOT NULL,
    labels          TEXT    NOT NULL,
    class_id        TEXT    NOT NULL REFERENCES classes (id),
    class           TEXT    NOT NULL,
    any_executor    BOOLEAN NOT NULL,      -- the executor in class is our choice
    spec            TEXT    NOT NULL,
    github_job_id   BIGINT  NOT NULL,      -- 0 for a native job
    github          TEXT    NOT NULL,
    idempotency_key TEXT    NOT NULL,
    max_attempts    BIGINT  NOT NULL,
    received_at     BIGINT  NOT NULL,
    admitted_at     BIGINT  NOT NULL,
    state           TEXT    NOT NULL,
    result          TEXT    NOT NULL DEFAULT '',
    reason_code     TEXT    NOT NULL DEFAULT '',
    reason_message  TEXT    NOT NULL DEFAULT '',
    attempt_id      TEXT    NOT NULL DEFAULT '',
    attempt_count   BIGINT  NOT NULL DEFAULT 0,
    fair_rank       BIGINT  NOT NULL DEFAULT 0,
    stop_result     TEXT    NOT NULL DEFAULT '', -- asked to stop, and to end like this
    stop_code       TEXT    NOT NULL DEFAULT '',
    stop_message    TEXT    NOT NULL DEFAULT '',
    due_at          BIGINT  NOT NULL DEFAULT 0,  -- when its present state has lasted too long
    check_at        BIGINT  NOT NULL DEFAULT 0,  -- when to ask GitHub about it
    checks          BIGINT  NOT NULL DEFAULT 0,  -- how often that was asked in vain
    queued_at       BIGINT  NOT NULL DEFAULT 0,
    finished_at     BIGINT  NOT NULL DEFAULT 0,
    event_count     BIGINT  NOT NULL DEFAULT 0
);
CREATE INDEX jobs_page ON jobs (org_id, id);
CREATE INDEX jobs_open_page ON jobs (org_id, id) WHERE state <> 'finished';
CREATE INDEX jobs_unschedulable ON jobs (class_id) WHERE state = 'unschedulable';
CREATE UNIQUE INDEX jobs_github ON jobs (github_job_id) WHERE github_job_id <> 0;
CREATE UNIQUE INDEX jobs_idempotency ON jobs (org_id, idempotency_key) WHERE idempotency_key <> '';
CREATE INDEX jobs_due ON jobs (due_at) WHERE due_at > 0;
CREATE INDEX jobs_check ON jobs (check_at) WHERE check_at > 0;

-- The backlog: jobs that are pending.
CREATE TABLE backlog (
    job_id   TEXT PRIMARY KEY,
    class_id TEXT NOT NULL,
    org_id   TEXT NOT NULL,
    repo_id  TEXT NOT NULL
);
CREATE INDEX backlog_flow ON backlog (class_id, org_id, repo_id, job_id);

-- The promoted window: jobs that are queued. Small and hot.
CREATE TABLE queue (
    job_id    TEXT   PRIMARY KEY,
    class_id  TEXT   NOT NULL,
    fair_rank BIGINT NOT NULL
);
CREATE INDEX queue_rank ON queue (class_id, fair_rank, job_id);

-- Start-time fair queueing: the finish tag of what each flow was given last. A
-- flow is an org, or a repo of one.
CREATE TABLE flows (
    id     TEXT   PRIMARY KEY,
    parent TEXT   NOT NULL, -- '' for an org, else the org
    tag    BIGINT NOT NULL,
    vtime  BIGINT NOT NULL  -- of an org: the virtual time among its repos
);
CREATE INDEX flows_tag ON flows (parent, tag);

-- Fencing tokens: the last one that was minted.
CREATE TABLE fence (
    one  BIGINT PRIMARY KEY CHECK (one = 1),
    last BIGINT NOT NULL
);
INSERT INTO fence (one, last) VALUES (1, 0);

CREATE TABLE attempts (
    id               TEXT    PRIMARY KEY,
    job_id           TEXT    NOT NULL REFERENCES jobs (id),
    org_id           TEXT    NOT NULL REFERENCES orgs (id),
    host_id          TEXT    NOT NULL REFERENCES hosts (id),
    fence            BIGINT  NOT NULL UNIQUE,
    version          BIGINT  NOT NULL DEFAULT 0, -- of the row: a change based on an older one is refused
    state            TEXT    NOT NULL, -- offered, lapsed, live, ended
    expires_at       BIGINT  NOT NULL, -- of the offer, then of the lease
    stop_at          BIGINT  NOT NULL DEFAULT 0, -- from when on the host is told to cancel
    offered_at       BIGINT  NOT NULL,
    accepted_at      BIGINT  NOT NULL DEFAULT 0,
    sandbox_ready_at BIGINT  NOT NULL DEFAULT 0,
    started_at       BIGINT  NOT NULL DEFAULT 0, -- the process runs
    running_at       BIGINT  NOT NULL DEFAULT 0, -- the job runs in it
    first_output_at  BIGINT  NOT NULL DEFAULT 0,
    ended_at         BIGINT  NOT NULL DEFAULT 0,
    destroyed_at     BIGINT  NOT NULL DEFAULT 0,
    runner_name      TEXT    NOT NULL DEFAULT '', -- set before GitHub is asked for it
    runner_id        BIGINT  NOT NULL DEFAULT 0,
    runner_todo      BIGINT  NOT NULL DEFAULT 0, -- when to try to remove the runner at GitHub
    token_todo       TEXT    NOT NULL DEFAULT '', -- activate or revoke: to be done after the commit
    outcome          TEXT    NOT NULL DEFAULT '',
    exit_code        BIGINT,
    log_total        BIGINT  NOT NULL DEFAULT -1, -- lines that the host produced; -1: not known yet
    log_stored       BIGINT  NOT NULL DEFAULT 0,
    log_complete     BOOLEAN NOT NULL DEFAULT FALSE
);
CREATE INDEX attempts_job ON attempts (job_id);
CREATE INDEX attempts_open ON attempts (expires_at) WHERE state IN ('offered', 'live');
CREATE INDEX attempts_host ON attempts (host_id) WHERE state IN ('offered', 'live');
CREATE INDEX attempts_token_todo ON attempts (id) WHERE token_todo <> '';
CREATE INDEX attempts_runner_todo ON attempts (runner_todo) WHERE runner_todo > 0;

-- A job as people see it: with the phases of its current or last attempt.
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

CREATE TABLE job_events (
    job_id     TEXT   NOT NULL REFERENCES jobs (id),
    seq        BIGINT NOT NULL,
    at         BIGINT NOT NULL,
    kind       TEXT   NOT NULL,
    attempt_id TEXT   NOT NULL,
    actor      TEXT   NOT NULL,
    detail     TEXT   NOT NULL,
    PRIMARY KEY (job_id, seq)
);

-- The ledger of webhooks that were processed, each in the transaction of its effect.
CREATE TABLE deliveries (
    id          TEXT   PRIMARY KEY,
    event       TEXT   NOT NULL,
    action      TEXT   NOT NULL,
    body_sha256 TEXT   NOT NULL,
    received_at BIGINT NOT NULL,
    outcome     TEXT   NOT NULL
);
CREATE INDEX deliveries_received ON deliveries (received_at);

-- What GitHub said last of each of its jobs. The rank only grows; a row without
-- a job of ours is the tombstone of an event that overtook another.
CREATE TABLE forge_jobs (
    github_job_id BIGINT PRIMARY KEY,
    status        TEXT   NOT NULL,
    status_rank   BIGINT NOT NULL,
    conclusion    TEXT   NOT NULL,
    runner_name   TEXT   NOT NULL,
    updated_at    BIGINT NOT NULL
);
CREATE INDEX forge_jobs_updated ON forge_jobs (updated_at);
