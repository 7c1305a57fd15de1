-- Who signed in with a browser, and with which key: a session ends with its key. The value of the
-- cookie is not here, only its keyed hash.
CREATE TABLE browser_session (
    id          uuid PRIMARY KEY,
    agent_id    uuid NOT NULL REFERENCES agent,
    api_key_id  uuid NOT NULL REFERENCES api_key,
    digest      bytea NOT NULL CONSTRAINT browser_session_digest_unique UNIQUE,
    created_at  timestamptz NOT NULL,
    seen_at     timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    ended_at    timestamptz
);
CREATE INDEX browser_session_expiry ON browser_session (expires_at);
