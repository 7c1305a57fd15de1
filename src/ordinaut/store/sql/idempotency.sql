-- name: try_lock
-- One request a key at a time; the lock ends with the transaction, whatever becomes of it.
SELECT pg_try_advisory_xact_lock(hashtextextended(%(agent_id)s::text || ' ' || %(key)s, 0));

-- name: find
SELECT fingerprint, status, body FROM idempotency WHERE agent_id = %(agent_id)s AND key = %(key)s;

-- name: keep
INSERT INTO idempotency (agent_id, key, fingerprint, status, body)
VALUES (%(agent_id)s, %(key)s, %(fingerprint)s, %(status)s, %(body)s);
