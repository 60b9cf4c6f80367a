-- +goose Up

-- What jobs told by OTLP: a batch is what one request had, packed.
CREATE TABLE telemetry_batches (
    org_id     TEXT   NOT NULL,
    job_id     TEXT   NOT NULL,
    attempt_id TEXT   NOT NULL REFERENCES attempts (id),
    seq        BIGINT NOT NULL, -- of its host, growing
    signal     TEXT   NOT NULL CHECK (signal IN ('traces', 'logs', 'metrics')),
    items      BIGINT NOT NULL,
    stored_at  BIGINT NOT NULL,
    bytes      BIGINT NOT NULL,
    data       BYTEA  NOT NULL,
    PRIMARY KEY (org_id, job_id, attempt_id, seq)
);
CREATE INDEX telemetry_batches_age ON telemetry_batches (stored_at);
CREATE INDEX telemetry_batches_org ON telemetry_batches (org_id, stored_at);

-- What each org has of them, and whether it wants any.
CREATE TABLE telemetry_orgs (
    org_id TEXT    PRIMARY KEY REFERENCES orgs (id),
    off    BOOLEAN NOT NULL DEFAULT FALSE,
    bytes  BIGINT  NOT NULL DEFAULT 0
);
