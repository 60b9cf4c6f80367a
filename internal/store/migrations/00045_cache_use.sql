-- +goose Up

-- What else is known of what a cache is used for, and how long its entries stay
-- that nobody finds.
ALTER TABLE cache_usage ADD COLUMN bytes_in  BIGINT NOT NULL DEFAULT 0;  -- of blocks that came
ALTER TABLE cache_usage ADD COLUMN bytes_out BIGINT NOT NULL DEFAULT 0;  -- of contents that were read
ALTER TABLE cache_usage ADD COLUMN refused   BIGINT NOT NULL DEFAULT 0;  -- uploads for which there was no room
ALTER TABLE cache_usage ADD COLUMN unused    BIGINT NOT NULL DEFAULT -1; -- of an org: microseconds; -1 for the usual
