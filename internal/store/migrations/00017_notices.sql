-- +goose Up

-- What the person who pushed is to be told at GitHub of a job, as a check run.
CREATE TABLE notices (
    job_id   TEXT   PRIMARY KEY REFERENCES jobs (id),
    due_at   BIGINT NOT NULL, -- when to look whether there is something new to tell; 0: nothing
    tries    BIGINT NOT NULL, -- how often GitHub could not be reached since
    check_id BIGINT NOT NULL, -- of GitHub; 0: none yet
    said     TEXT   NOT NULL  -- what was told last; '' nothing
);
CREATE INDEX notices_due ON notices (due_at) WHERE due_at > 0;
