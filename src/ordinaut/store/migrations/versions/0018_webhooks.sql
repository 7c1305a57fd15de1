-- An address that is told of events under some topics. It hears what happens from listens_from
-- on. failing_since is when its deliveries began to fail one after the other.
CREATE TABLE webhook (
    id            uuid PRIMARY KEY,
    url           text NOT NULL,
    topics        text[] NOT NULL,
    filter        text,
    description   text NOT NULL DEFAULT '',
    status        text NOT NULL DEFAULT 'active',
    reason        text NOT NULL DEFAULT '',
    listens_from  timestamptz NOT NULL DEFAULT now(),
    failing_since timestamptz,
    created_by    uuid NOT NULL REFERENCES agent,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT webhook_status_known CHECK (status IN ('active', 'paused', 'disabled'))
);
CREATE INDEX webhook_owner ON webhook (created_by, id DESC);

-- The secrets that sign, encrypted. While one is replaced both sign: expires_at is the end of the
-- older one.
CREATE TABLE webhook_secret (
    id          uuid PRIMARY KEY,
    webhook_id  uuid NOT NULL REFERENCES webhook ON DELETE CASCADE,
    ciphertext  bytea NOT NULL,
    key_id      text NOT NULL,
    expires_at  timestamptz
);
CREATE INDEX webhook_secret_webhook ON webhook_secret (webhook_id, id DESC);

-- One event on its way to one webhook; its id is the webhook-id of every attempt. Whoever claims
-- it puts next_attempt_at behind its lease, and lease_token fences what it says afterwards.
CREATE TABLE webhook_delivery (
    id               uuid PRIMARY KEY,
    webhook_id       uuid NOT NULL REFERENCES webhook ON DELETE CASCADE,
    event_seq        bigint,
    topic            text NOT NULL,
    body             text NOT NULL,
    status           text NOT NULL DEFAULT 'pending',
    attempts         integer NOT NULL DEFAULT 0,
    next_attempt_at  timestamptz NOT NULL,
    lease_token      integer NOT NULL DEFAULT 0,
    response_status  integer,
    error            text NOT NULL DEFAULT '',
    created_at       timestamptz NOT NULL DEFAULT now(),
    attempted_at     timestamptz,
    finished_at      timestamptz,
    CONSTRAINT webhook_delivery_once UNIQUE (webhook_id, event_seq),
    CONSTRAINT webhook_delivery_status_known CHECK (status IN ('pending', 'delivered', 'dead')),
    CONSTRAINT webhook_delivery_end CHECK ((status = 'pending') = (finished_at IS NULL))
);
CREATE INDEX webhook_delivery_page ON webhook_delivery (webhook_id, id DESC);
CREATE INDEX webhook_delivery_due ON webhook_delivery (webhook_id, next_attempt_at, id)
    WHERE status = 'pending';
CREATE INDEX webhook_delivery_soon ON webhook_delivery (next_attempt_at)
    WHERE status = 'pending';
CREATE INDEX webhook_delivery_age ON webhook_delivery (finished_at) WHERE status <> 'pending';

INSERT INTO event_cursor (name, snapshot) VALUES ('webhooks', pg_current_snapshot());
