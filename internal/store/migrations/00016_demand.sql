-- +goose Up

-- How far an App's list of the webhooks that it sent was looked through.
CREATE TABLE delivery_cursors (
    app_id     BIGINT PRIMARY KEY,
    checked_at BIGINT NOT NULL, -- GitHub's clock: all that failed before is known
    page       TEXT   NOT NULL, -- of GitHub's list, where a look goes on that was not ended; '' for none
    newest_at  BIGINT NOT NULL  -- what checked_at becomes at the end of that look
);

-- Webhooks that failed and were not processed since: GitHub is to send them again.
CREATE TABLE redeliveries (
    app_id      BIGINT NOT NULL,
    guid        TEXT   NOT NULL,
    delivery_id BIGINT NOT NULL, -- of its newest sending
    sent_at     BIGINT NOT NULL, -- GitHub's clock, the first sending that is known
    tries       BIGINT NOT NULL DEFAULT 0,
    next_at     BIGINT NOT NULL, -- when to ask for it
    PRIMARY KEY (app_id, guid)
);
CREATE INDEX redeliveries_next ON redeliveries (app_id, next_at);
