-- +goose Up

-- The row of an org that was deleted stays: the audit ledger names it.
ALTER TABLE orgs ADD COLUMN removed_at BIGINT NOT NULL DEFAULT 0;

-- GitHub owners whose repositories come into an org when their first job does;
-- those of others come into the default org.
CREATE TABLE owners (
    name       TEXT   PRIMARY KEY, -- lower case
    org_id     TEXT   NOT NULL REFERENCES orgs (id),
    created_at BIGINT NOT NULL
);
CREATE INDEX owners_org ON owners (org_id);
CREATE INDEX repos_org ON repos (org_id, id);

CREATE TABLE users (
    id             TEXT    PRIMARY KEY,
    email          TEXT    NOT NULL, -- lower case
    name           TEXT    NOT NULL,
    platform_admin BOOLEAN NOT NULL,
    created_at     BIGINT  NOT NULL,
    removed_at     BIGINT  NOT NULL DEFAULT 0 -- the row stays: the audit ledger names it
);
CREATE UNIQUE INDEX users_email ON users (email) WHERE removed_at = 0;

CREATE TABLE memberships (
    org_id     TEXT   NOT NULL REFERENCES orgs (id),
    user_id    TEXT   NOT NULL REFERENCES users (id),
    role       TEXT   NOT NULL CHECK (role IN ('viewer', 'developer', 'operator', 'admin')),
    created_at BIGINT NOT NULL,
    PRIMARY KEY (org_id, user_id)
);
CREATE INDEX memberships_user ON memberships (user_id);

CREATE TABLE service_accounts (
    id         TEXT   PRIMARY KEY,
    org_id     TEXT   NOT NULL REFERENCES orgs (id),
    name       TEXT   NOT NULL,
    role       TEXT   NOT NULL CHECK (role IN ('viewer', 'developer', 'operator', 'admin')),
    created_at BIGINT NOT NULL,
    created_by TEXT   NOT NULL
);
CREATE UNIQUE INDEX service_accounts_name ON service_accounts (org_id, name);
CREATE INDEX service_accounts_page ON service_accounts (org_id, id);

ALTER TABLE tokens ADD COLUMN version      BIGINT NOT NULL DEFAULT 1;  -- of what the columns mean
ALTER TABLE tokens ADD COLUMN name         TEXT   NOT NULL DEFAULT '';
ALTER TABLE tokens ADD COLUMN role         TEXT   NOT NULL DEFAULT ''; -- the most that it may do; '' for its owner's
ALTER TABLE tokens ADD COLUMN scopes       TEXT   NOT NULL DEFAULT ''; -- separated by spaces; '' for all
ALTER TABLE tokens ADD COLUMN parent       TEXT   NOT NULL DEFAULT ''; -- the token that a session was made with, and ends with
ALTER TABLE tokens ADD COLUMN created_by   TEXT   NOT NULL DEFAULT '';
ALTER TABLE tokens ADD COLUMN last_used_at BIGINT NOT NULL DEFAULT 0;  -- to the minute
ALTER TABLE tokens ADD COLUMN revoked_at   BIGINT NOT NULL DEFAULT 0;
CREATE INDEX tokens_page ON tokens (org_id, id) WHERE kind IN ('user', 'account', 'admin');
CREATE INDEX tokens_parent ON tokens (parent) WHERE parent <> '';
-- The one that the first start makes: of replicas that start at once one does.
CREATE UNIQUE INDEX tokens_first ON tokens (kind) WHERE kind = 'admin' AND created_by = 'system';

-- What replicas must forget of whom they know: a token, or all of a user, a
-- service account or a host; '' for everybody. Numbers are given under the lock
-- of the counter, so that they are seen in their order.
CREATE TABLE revocations (
    seq     BIGINT PRIMARY KEY,
    subject TEXT   NOT NULL,
    at      BIGINT NOT NULL
);
CREATE INDEX revocations_at ON revocations (at);
CREATE TABLE revocation_seq (
    one  BIGINT PRIMARY KEY CHECK (one = 1),
    last BIGINT NOT NULL
);
INSERT INTO revocation_seq (one, last) VALUES (1, 0);
