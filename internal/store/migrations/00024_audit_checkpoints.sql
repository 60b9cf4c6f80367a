-- +goose Up

-- Each checkpoint tells, signed, at which entry the one before is, 0 before the
-- first: so one that is taken out is missed. -1 is in those from before.
ALTER TABLE audit_checkpoints ADD COLUMN prev_seq BIGINT NOT NULL DEFAULT -1;
