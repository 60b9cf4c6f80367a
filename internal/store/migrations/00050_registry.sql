-- +goose Up

-- Images of orgs. A repository is named by its org and the rest of its name.
CREATE TABLE registry_repos (
    org_id     TEXT    NOT NULL REFERENCES orgs (id),
    repo       TEXT    NOT NULL,
    immutable  BOOLEAN NOT NULL DEFAULT FALSE, -- a tag that is there stays what it is
    keep_days  BIGINT  NOT NULL DEFAULT 0,     -- images that nobody pulled or pushed for so long go; 0: none do
    evict      BOOLEAN NOT NULL DEFAULT FALSE, -- its images make room when the quota is nearly used
    created_at BIGINT  NOT NULL,
    PRIMARY KEY (org_id, repo)
);

-- What was pushed, once for each org. Its content is registry/ORG/PATH, or, where
-- path is '', the segments of content one after the other.
CREATE TABLE registry_blobs (
    org_id     TEXT   NOT NULL,
    digest     TEXT   NOT NULL,
    size       BIGINT NOT NULL,
    path       TEXT   NOT NULL,
    content    TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (org_id, digest)
);
CREATE INDEX registry_blobs_path ON registry_blobs (org_id, path) WHERE path <> '';

-- In which repositories a blob can be pulled. One that no manifest names goes
-- when it was not used for the grace. Whoever makes one holds the blob's row, and
-- whoever relies on one holds its row, so that nothing goes that is just coming
-- into use.
CREATE TABLE registry_links (
    org_id  TEXT   NOT NULL,
    repo    TEXT   NOT NULL,
    digest  TEXT   NOT NULL,
    used_at BIGINT NOT NULL, -- when it was pushed, mounted or looked for, to a part of the grace
    PRIMARY KEY (org_id, repo, digest)
);
CREATE INDEX registry_links_digest ON registry_links (org_id, digest);
CREATE INDEX registry_links_used ON registry_links (used_at, org_id, repo, digest);

-- Blobs that come in several requests, from the first that has brought bytes on.
CREATE TABLE registry_uploads (
    id         TEXT   PRIMARY KEY,
    org_id     TEXT   NOT NULL,
    repo       TEXT   NOT NULL,
    state      TEXT   NOT NULL CHECK (state IN ('open', 'ended')),
    size       BIGINT NOT NULL,
    segments   BIGINT NOT NULL,
    algorithm  TEXT   NOT NULL, -- of sum
    sum        BYTEA  NOT NULL, -- of the bytes so far, as the hash writes its state
    begun_at   BIGINT NOT NULL,
    touched_at BIGINT NOT NULL
);
CREATE INDEX registry_uploads_touched ON registry_uploads (touched_at);
CREATE INDEX registry_uploads_org ON registry_uploads (org_id) WHERE state = 'open';

CREATE TABLE registry_segments (
    content TEXT   NOT NULL, -- the upload's id
    n       BIGINT NOT NULL,
    org_id  TEXT   NOT NULL,
    start   BIGINT NOT NULL,
    size    BIGINT NOT NULL,
    path    TEXT   NOT NULL,
    PRIMARY KEY (content, n)
);
CREATE INDEX registry_segments_path ON registry_segments (org_id, path);

CREATE TABLE registry_manifests (
    org_id        TEXT   NOT NULL,
    repo          TEXT   NOT NULL,
    digest        TEXT   NOT NULL,
    media_type    TEXT   NOT NULL,
    artifact_type TEXT   NOT NULL,
    subject       TEXT   NOT NULL, -- the digest of what it is about; '' for none
    annotations   TEXT   NOT NULL, -- JSON, where it has a subject
    size          BIGINT NOT NULL,
    image_size    BIGINT NOT NULL, -- with all that it names
    content       BYTEA  NOT NULL,
    pushed_at     BIGINT NOT NULL,
    used_at       BIGINT NOT NULL, -- when it was last pushed or pulled, to some seconds
    pulled_at     BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (org_id, repo, digest)
);
CREATE INDEX registry_referrers ON registry_manifests (org_id, repo, subject, digest) WHERE subject <> '';
CREATE INDEX registry_manifests_used ON registry_manifests (used_at, org_id, repo, digest);
CREATE INDEX registry_manifests_repo ON registry_manifests (org_id, repo, used_at, digest);

-- What manifests name in their own repository.
CREATE TABLE registry_refs (
    org_id   TEXT NOT NULL,
    repo     TEXT NOT NULL,
    manifest TEXT NOT NULL,
    digest   TEXT NOT NULL, -- of a blob, or of another manifest
    PRIMARY KEY (org_id, repo, manifest, digest)
);
CREATE INDEX registry_refs_digest ON registry_refs (org_id, repo, digest);

-- Names of tags are bytes: they are listed in that order on both engines.
CREATE TABLE registry_tags (
    org_id     TEXT   NOT NULL,
    repo       TEXT   NOT NULL,
    tag        BYTEA  NOT NULL,
    digest     TEXT   NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (org_id, repo, tag)
);
CREATE INDEX registry_tags_digest ON registry_tags (org_id, repo, digest);

-- Contents that nothing names any more. They stay for as long as somebody may
-- still read them.
CREATE TABLE registry_garbage (
    org_id     TEXT   NOT NULL,
    path       TEXT   NOT NULL,
    removed_at BIGINT NOT NULL,
    PRIMARY KEY (org_id, path)
);
CREATE INDEX registry_garbage_removed ON registry_garbage (removed_at, org_id, path);

CREATE TABLE registry_usage (
    org_id TEXT   PRIMARY KEY,
    bytes  BIGINT NOT NULL DEFAULT 0,  -- of blobs, manifests and uploads
    quota  BIGINT NOT NULL DEFAULT -1  -- bytes; -1 for the usual
);

-- Grows when something is removed: replicas forget then what they remember.
CREATE TABLE registry_epoch (
    one   BIGINT PRIMARY KEY CHECK (one = 1),
    epoch BIGINT NOT NULL
);
INSERT INTO registry_epoch (one, epoch) VALUES (1, 0);
