-- +goose Up

-- What an attempt's sandbox was made of: cold, restored or warm; '' where that
-- was not told.
ALTER TABLE attempts ADD COLUMN origin TEXT NOT NULL DEFAULT '';

-- The jobs of an org by when they ended, for reports of a part of the time.
CREATE INDEX jobs_finished ON jobs (org_id, finished_at) WHERE finished_at > 0;
