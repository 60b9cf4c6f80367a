-- +goose Up

-- Whose jobs may push to a repository besides those of the one at GitHub that it is
-- called after: a JSON list.
ALTER TABLE registry_repos ADD COLUMN push_from TEXT NOT NULL DEFAULT '[]';

-- For which platforms an image is, as it says itself, with commas between them.
ALTER TABLE registry_manifests ADD COLUMN platforms TEXT NOT NULL DEFAULT '';
