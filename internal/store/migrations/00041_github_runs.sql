-- +goose Up

-- What GitHub says of the runs whose jobs use the cache, asked once for each.
CREATE TABLE github_runs (
    org_id    TEXT   NOT NULL REFERENCES orgs (id),
    repo      TEXT   NOT NULL, -- owner/name, in lower case
    run_id    BIGINT NOT NULL,
    origin    TEXT   NOT NULL, -- JSON: nimbus.RunOrigin
    asked_at  BIGINT NOT NULL,
    PRIMARY KEY (org_id, repo, run_id)
);
CREATE INDEX github_runs_asked ON github_runs (asked_at);
