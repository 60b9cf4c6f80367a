-- +goose Up

-- Entries that hosts are asked to have on their own disks before jobs restore
-- them, and what became of that. A row is of no use once it has expired.
CREATE TABLE cache_warm (
    host_id    TEXT   NOT NULL,
    entry_id   BIGINT NOT NULL,
    org_id     TEXT   NOT NULL,
    bytes      BIGINT NOT NULL,
    state      TEXT   NOT NULL CHECK (state IN ('asked', 'here', 'too_large', 'no_room', 'off', 'failed')),
    asked_at   BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (host_id, entry_id)
);
CREATE INDEX cache_warm_org ON cache_warm (org_id, host_id);
CREATE INDEX cache_warm_open ON cache_warm (host_id) WHERE state = 'asked';
CREATE INDEX cache_warm_expiring ON cache_warm (expires_at);
