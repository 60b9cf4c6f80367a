-- +goose Up

-- Registries whose images an org has by way of its own. What is kept of them is in
-- the tables of the registry, under the org's id with '.mirror' behind it.
CREATE TABLE registry_mirrors (
    org_id        TEXT   NOT NULL REFERENCES orgs (id),
    name          TEXT   NOT NULL,
    upstream      TEXT   NOT NULL,
    username      TEXT   NOT NULL,
    secret        TEXT   NOT NULL, -- the name of its password among the org's secrets; '' for none
    allowed       TEXT   NOT NULL, -- JSON: patterns of repositories
    since         BIGINT NOT NULL, -- when its upstream was set
    changed_at    BIGINT NOT NULL,
    changed_by    TEXT   NOT NULL,
    failure       TEXT   NOT NULL DEFAULT '', -- why it can't be asked
    failed_at     BIGINT NOT NULL DEFAULT 0,
    limited_until BIGINT NOT NULL DEFAULT 0, -- it wants not to be asked before
    spent_until   BIGINT NOT NULL DEFAULT 0, -- it gives no more manifests before
    clearing      BOOLEAN NOT NULL DEFAULT FALSE, -- what is here of before is being removed
    PRIMARY KEY (org_id, name)
);
