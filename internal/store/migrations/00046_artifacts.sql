-- +goose Up

-- What a run's jobs give each other is kept as entries of the cache are, in the
-- run's own scope, and held until it expires.
ALTER TABLE cache_entries ADD COLUMN digest     TEXT   NOT NULL DEFAULT ''; -- SHA-256 of an artifact, in hex; '' for none
ALTER TABLE cache_entries ADD COLUMN mime_type  TEXT   NOT NULL DEFAULT '';
ALTER TABLE cache_entries ADD COLUMN expires_at BIGINT NOT NULL DEFAULT 0;  -- 0 for never
CREATE INDEX cache_expiring ON cache_entries (expires_at) WHERE state = 'committed' AND expires_at > 0;
