-- +goose Up

-- What a page of a log has, so that what can't be found in it is not looked for.
-- Pages of format 0 (JSON lines) are of before: nothing is known of them.
ALTER TABLE log_pages ADD COLUMN format BIGINT NOT NULL DEFAULT 0;
ALTER TABLE log_pages ADD COLUMN text_bytes BIGINT NOT NULL DEFAULT 0;
ALTER TABLE log_pages ADD COLUMN first_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE log_pages ADD COLUMN last_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE log_pages ADD COLUMN debug_lines BIGINT NOT NULL DEFAULT 0;
ALTER TABLE log_pages ADD COLUMN info_lines BIGINT NOT NULL DEFAULT 0;
ALTER TABLE log_pages ADD COLUMN warn_lines BIGINT NOT NULL DEFAULT 0;
ALTER TABLE log_pages ADD COLUMN error_lines BIGINT NOT NULL DEFAULT 0;
ALTER TABLE log_pages ADD COLUMN max_level BIGINT NOT NULL DEFAULT 0;
CREATE INDEX log_pages_org ON log_pages (org_id, attempt_id, first_seq);

-- Pages that a second store does not have yet. Those of one batch are handed on
-- together, again and again until it has them.
CREATE TABLE log_outbox (
    attempt_id TEXT   NOT NULL,
    first_seq  BIGINT NOT NULL,
    org_id     TEXT   NOT NULL,
    text_bytes BIGINT NOT NULL,
    added_at   BIGINT NOT NULL,
    batch      BIGINT NOT NULL DEFAULT 0, -- 0: in none
    PRIMARY KEY (attempt_id, first_seq)
);
CREATE INDEX log_outbox_order ON log_outbox (batch, added_at, attempt_id, first_seq);

-- For how many days logs are kept; 0 is for ever. The org '' is all that have no
-- row of their own.
CREATE TABLE log_retention (
    org_id TEXT   PRIMARY KEY,
    days   BIGINT NOT NULL CHECK (days >= 0)
);
