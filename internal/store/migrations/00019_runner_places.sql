-- +goose Up

-- The organisation that the runner is registered with; '' for the job's repository.
ALTER TABLE attempts ADD COLUMN runner_org TEXT NOT NULL DEFAULT '';

-- Installations of GitHub Apps whose runners are registered with the
-- organisation. Those that are not here have theirs at each job's repository.
CREATE TABLE runner_places (
    installation_id BIGINT PRIMARY KEY,
    organization    TEXT   NOT NULL,
    group_name      TEXT   NOT NULL,
    group_id        BIGINT NOT NULL, -- of GitHub
    changed_at      BIGINT NOT NULL
);

-- Scale sets whose message queues are listened to.
CREATE TABLE scale_sets (
    id              TEXT   PRIMARY KEY,
    installation_id BIGINT NOT NULL,
    organization    TEXT   NOT NULL,
    group_name      TEXT   NOT NULL,
    group_id        BIGINT NOT NULL, -- of GitHub
    name            TEXT   NOT NULL,
    labels          TEXT   NOT NULL, -- JSON
    max_runners     BIGINT NOT NULL,
    github_id       BIGINT NOT NULL,
    changed_at      BIGINT NOT NULL,
    session         TEXT   NOT NULL DEFAULT '', -- that was open last, for the next leader to end
    heard_at        BIGINT NOT NULL DEFAULT 0,  -- when GitHub answered last
    trouble         TEXT   NOT NULL DEFAULT '', -- why it is not heard; '' while it is
    assigned        BIGINT NOT NULL DEFAULT 0,  -- jobs, as GitHub said last
    running         BIGINT NOT NULL DEFAULT 0,
    UNIQUE (installation_id, organization, name)
);
