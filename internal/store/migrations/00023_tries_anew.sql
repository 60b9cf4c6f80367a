-- +goose Up

-- When a job was tried anew by itself, after all of its attempts had ended
-- before it began; bounded by its org's rerun_policies.
CREATE TABLE tries_anew (
    job_id   TEXT   NOT NULL REFERENCES jobs (id),
    nth      BIGINT NOT NULL,
    org_id   TEXT   NOT NULL REFERENCES orgs (id),
    tried_at BIGINT NOT NULL,
    PRIMARY KEY (job_id, nth)
);
CREATE INDEX tries_anew_org ON tries_anew (org_id, tried_at);
