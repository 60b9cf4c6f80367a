-- +goose Up

-- How often an org may call, where that is not the usual.
CREATE TABLE org_rates (
    org_id TEXT NOT NULL REFERENCES orgs (id),
    kind   TEXT NOT NULL CHECK (kind IN ('webhooks', 'submissions', 'api')),
    rate   TEXT NOT NULL, -- PER_SECOND/BURST, or 'off' for no limit
    PRIMARY KEY (org_id, kind)
);
