-- +goose Up

-- What a client wants to be told with a content again, as Turborepo's tag.
ALTER TABLE cache_entries ADD COLUMN meta TEXT NOT NULL DEFAULT '';
