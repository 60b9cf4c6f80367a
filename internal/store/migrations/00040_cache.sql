-- +goose Up

-- What jobs saved for later ones. Keys are bytes: they are compared as such on
-- both engines, whatever the database's collation, so that what begins with a
-- text is one range of the index.
CREATE TABLE cache_entries (
    id           BIGINT  PRIMARY KEY,            -- grows with time, never given again
    org_id       TEXT    NOT NULL REFERENCES orgs (id),
    repo         TEXT    NOT NULL,               -- '' for jobs without one
    scope        TEXT    NOT NULL,
    version      TEXT    NOT NULL,
    key          BYTEA   NOT NULL,
    state        TEXT    NOT NULL CHECK (state IN ('uploading', 'committed', 'removing')),
    job_id       TEXT    NOT NULL,               -- that saves it; '' for a person's
    size         BIGINT  NOT NULL DEFAULT 0,     -- once committed
    reserved     BIGINT  NOT NULL DEFAULT 0,     -- bytes that count for it while it is uploading
    blocks       BIGINT  NOT NULL DEFAULT 0,
    arranged     BOOLEAN NOT NULL DEFAULT FALSE, -- its blocks have their order
    begun_at     BIGINT  NOT NULL,
    touched_at   BIGINT  NOT NULL,               -- when a byte came last
    created_at   BIGINT  NOT NULL DEFAULT 0,     -- when it was committed
    used_at      BIGINT  NOT NULL DEFAULT 0,     -- when it was last found, to the minute or so
    pinned_until BIGINT  NOT NULL DEFAULT 0,     -- somebody reads it, or has its URL
    removing_at  BIGINT  NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX cache_places ON cache_entries (org_id, repo, scope, version, key) WHERE state <> 'removing';
-- The time is in it so that the newest of a prefix is found without its rows.
CREATE INDEX cache_find ON cache_entries (org_id, repo, version, scope, key, created_at, id) WHERE state = 'committed';
CREATE INDEX cache_oldest_of_org ON cache_entries (org_id, used_at, id) WHERE state = 'committed';
CREATE INDEX cache_oldest_of_repo ON cache_entries (org_id, repo, used_at, id) WHERE state = 'committed';
CREATE INDEX cache_oldest ON cache_entries (used_at, id) WHERE state = 'committed';
CREATE INDEX cache_list ON cache_entries (org_id, id) WHERE state = 'committed';
CREATE INDEX cache_uploads ON cache_entries (org_id) WHERE state = 'uploading';
CREATE INDEX cache_idle ON cache_entries (touched_at) WHERE state = 'uploading';
CREATE INDEX cache_removing ON cache_entries (state, id) WHERE state = 'removing';

-- The blocks of uploads, and those that an entry is made of. The content of one
-- is the blob cache/ORG/ENTRY/NAME, which is there before its row.
CREATE TABLE cache_blocks (
    entry_id BIGINT NOT NULL REFERENCES cache_entries (id),
    block    BYTEA  NOT NULL, -- the client's own id of it
    name     TEXT   NOT NULL,
    size     BIGINT NOT NULL,
    sha256   TEXT   NOT NULL,
    n        BIGINT NOT NULL DEFAULT -1, -- its place in the content, -1 for none
    start    BIGINT NOT NULL DEFAULT 0,  -- of the content that is in it
    PRIMARY KEY (entry_id, block)
);
CREATE INDEX cache_blocks_n ON cache_blocks (entry_id, n);
CREATE INDEX cache_blocks_start ON cache_blocks (entry_id, start) WHERE n >= 0;
CREATE INDEX cache_blocks_name ON cache_blocks (entry_id, name);

-- What is used of the caches, and of how much: of all (org '*'), of an org (repo
-- '*'), and of each of its repositories. Who changes bytes locks them in this
-- order, after the upload that they are of and before entries that make room.
CREATE TABLE cache_usage (
    org_id  TEXT   NOT NULL,
    repo    TEXT   NOT NULL,
    bytes   BIGINT NOT NULL DEFAULT 0,  -- of entries, and reserved by uploads
    entries BIGINT NOT NULL DEFAULT 0,
    hits    BIGINT NOT NULL DEFAULT 0,
    misses  BIGINT NOT NULL DEFAULT 0,
    evicted BIGINT NOT NULL DEFAULT 0,  -- entries that made room, or were not used for long
    evicted_bytes BIGINT NOT NULL DEFAULT 0,
    quota   BIGINT NOT NULL DEFAULT -1, -- bytes; -1 for the usual
    PRIMARY KEY (org_id, repo)
);
CREATE INDEX cache_usage_orgs ON cache_usage (bytes) WHERE repo = '*' AND org_id <> '*';
INSERT INTO cache_usage (org_id, repo) VALUES ('*', '*');
