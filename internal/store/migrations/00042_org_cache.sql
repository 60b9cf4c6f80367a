-- +goose Up

-- Whose jobs of GitHub's have no cache here; no row: they have.
CREATE TABLE org_cache_off (
    org_id TEXT PRIMARY KEY REFERENCES orgs (id)
);
