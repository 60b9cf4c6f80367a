-- +goose Up

-- What a host proves itself with. The row goes when the host is removed.
CREATE TABLE host_keys (
    host_id    TEXT   PRIMARY KEY REFERENCES hosts (id),
    public_key BYTEA  NOT NULL, -- Ed25519
    join_hash  TEXT   NOT NULL, -- SHA-256 of the join token that it came with; '' for one that came later
    number     BIGINT NOT NULL DEFAULT 0,  -- of its newest session
    token_hash TEXT   NOT NULL DEFAULT '', -- SHA-256 of that session's token
    created_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX host_keys_join ON host_keys (join_hash) WHERE join_hash <> '';
