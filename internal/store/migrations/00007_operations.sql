-- +goose Up

-- Since when a host is kept from new jobs, and since when it is gone; 0: it is
-- not. The row stays, since the history of jobs names it.
ALTER TABLE hosts ADD COLUMN cordoned_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE hosts ADD COLUMN removed_at BIGINT NOT NULL DEFAULT 0;
