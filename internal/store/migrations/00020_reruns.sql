-- +goose Up

-- Whether an org has GitHub run jobs again that were lost; no row: it does not.
CREATE TABLE rerun_policies (
    org_id   TEXT   PRIMARY KEY REFERENCES orgs (id),
    per_run  BIGINT NOT NULL,
    per_hour BIGINT NOT NULL
);

-- One attempt of a workflow run that is to be run again, or was. The intent is
-- here before GitHub is asked, so that one attempt is run again once.
CREATE TABLE reruns (
    repo_id     TEXT   NOT NULL,
    run_id      BIGINT NOT NULL,
    run_attempt BIGINT NOT NULL,
    org_id      TEXT   NOT NULL REFERENCES orgs (id),
    state       TEXT   NOT NULL, -- waiting, asking, done, dropped
    due_at      BIGINT NOT NULL, -- when to look at it; 0: never again
    tries       BIGINT NOT NULL, -- how often it was looked at; who looks holds this number
    made_at     BIGINT NOT NULL,
    asked_at    BIGINT NOT NULL, -- when the intent was written; 0: never
    why         TEXT   NOT NULL, -- it was dropped
    PRIMARY KEY (repo_id, run_id, run_attempt)
);
CREATE INDEX reruns_due ON reruns (due_at) WHERE due_at > 0;
CREATE INDEX reruns_asked ON reruns (org_id, asked_at) WHERE asked_at > 0;

-- The jobs that were lost in it.
CREATE TABLE rerun_jobs (
    job_id      TEXT   PRIMARY KEY REFERENCES jobs (id),
    org_id      TEXT   NOT NULL,
    repo_id     TEXT   NOT NULL,
    run_id      BIGINT NOT NULL,
    run_attempt BIGINT NOT NULL
);
CREATE INDEX rerun_jobs_run ON rerun_jobs (repo_id, run_id, run_attempt);

-- The processes that share what GitHub allows, and when each was last here.
CREATE TABLE replicas (
    id      TEXT   PRIMARY KEY,
    seen_at BIGINT NOT NULL
);
