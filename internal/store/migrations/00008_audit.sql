-- +goose Up

-- What is still to be chained into the audit ledger: rows come in the
-- transaction of what they tell, and go in that of their place in the chain.
CREATE TABLE audit_outbox (
    id      TEXT   PRIMARY KEY,
    at      BIGINT NOT NULL,
    org_id  TEXT   NOT NULL, -- '' for the platform's own
    actor   TEXT   NOT NULL,
    action  TEXT   NOT NULL,
    target  TEXT   NOT NULL,
    outcome TEXT   NOT NULL,
    detail  TEXT   NOT NULL, -- JSON
    count   BIGINT NOT NULL
);
