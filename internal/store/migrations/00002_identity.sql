-- +goose Up

-- Tokens of all kinds, login codes and sessions among them. Only hashes are kept.
CREATE TABLE tokens (
    id         TEXT   PRIMARY KEY,
    kind       TEXT   NOT NULL,
    org_id     TEXT   NOT NULL,       -- '' for the platform's own
    subject    TEXT   NOT NULL,       -- user, host or attempt id
    hash       TEXT   NOT NULL UNIQUE, -- SHA-256, hex
    state      TEXT   NOT NULL CHECK (state IN ('inert', 'active', 'used', 'revoked')),
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL        -- 0: never
);
CREATE INDEX tokens_by_subject ON tokens (kind, subject);
CREATE INDEX tokens_by_expiry ON tokens (expires_at) WHERE expires_at > 0;

-- Secrets of an org, sealed under the master key.
CREATE TABLE secrets (
    org_id     TEXT   NOT NULL,
    name       TEXT   NOT NULL,
    sealed     BYTEA  NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (org_id, name)
);
