-- +goose Up

-- What keeps a host from asking for jobs, as it said when it was seen; '' for
-- nothing.
ALTER TABLE hosts ADD COLUMN closed TEXT NOT NULL DEFAULT '';
