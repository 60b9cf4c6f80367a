-- +goose Up

-- The releases of GitHub's runner, by the API that told of them.
CREATE TABLE runner_releases (
    api_url    TEXT   PRIMARY KEY,
    releases   TEXT   NOT NULL, -- JSON, newest first; [] where there are none
    checked_at BIGINT NOT NULL, -- when it told last; 0: never
    trouble    TEXT   NOT NULL  -- why it did not since; '' where it did
);

-- The App whose installation it is; 0 where that was not kept.
ALTER TABLE runner_places ADD COLUMN app_id BIGINT NOT NULL DEFAULT 0;
ALTER TABLE scale_sets ADD COLUMN app_id BIGINT NOT NULL DEFAULT 0;
