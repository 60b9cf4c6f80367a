-- +goose Up

-- The audit ledger: a chain of entries for each org, '' is the platform's. Rows
-- are added and never changed: triggers refuse it, which differ by engine and
-- are made when the database is opened.
CREATE TABLE audit_ledger (
    org_id    TEXT   NOT NULL,
    seq       BIGINT NOT NULL, -- 1, 2, 3 … without a gap
    id        TEXT   NOT NULL UNIQUE,
    at        BIGINT NOT NULL,
    actor     TEXT   NOT NULL,
    action    TEXT   NOT NULL,
    target    TEXT   NOT NULL,
    outcome   TEXT   NOT NULL,
    detail    TEXT   NOT NULL, -- JSON
    count     BIGINT NOT NULL,
    prev_hash TEXT   NOT NULL, -- of the entry before
    hash      TEXT   NOT NULL, -- of all of this
    PRIMARY KEY (org_id, seq)
);
CREATE INDEX audit_ledger_actor ON audit_ledger (org_id, actor, seq);
CREATE INDEX audit_ledger_action ON audit_ledger (org_id, action, seq);
CREATE INDEX audit_ledger_target ON audit_ledger (org_id, target, seq);

CREATE TABLE audit_checkpoints (
    org_id    TEXT   NOT NULL,
    seq       BIGINT NOT NULL,
    hash      TEXT   NOT NULL,
    at        BIGINT NOT NULL,
    signature BYTEA  NOT NULL,
    PRIMARY KEY (org_id, seq)
);

-- Where the chains end. The platform's row is always there: who lengthens any
-- chain locks it first.
CREATE TABLE audit_heads (
    org_id TEXT   PRIMARY KEY,
    seq    BIGINT NOT NULL,
    hash   TEXT   NOT NULL
);
INSERT INTO audit_heads (org_id, seq, hash) VALUES ('', 0, '0000000000000000000000000000000000000000000000000000000000000000');

CREATE INDEX audit_outbox_at ON audit_outbox (at, id);
