-- name: count
-- How many webhooks an agent has; whoever makes one more waits for the end of the other.
SELECT count(*) FROM webhook
 WHERE created_by = (SELECT id FROM agent WHERE id = %(owner)s FOR NO KEY UPDATE);

-- name: create
INSERT INTO webhook (id, url, topics, filter, description, created_by, created_at, updated_at)
VALUES (%(id)s, %(url)s, %(topics)s, %(filter)s, %(description)s, %(owner)s, %(now)s, %(now)s)
RETURNING id, url, topics, filter, description, status, reason, failing_since, created_by,
          created_at, updated_at;

-- name: get
SELECT id, url, topics, filter, description, status, reason, failing_since, created_by,
       created_at, updated_at
  FROM webhook
 WHERE id = %(id)s AND (%(owner)s::uuid IS NULL OR created_by = %(owner)s);

-- name: lock
-- The same, kept as it is until commit.
SELECT id, url, topics, filter, description, status, reason, failing_since, created_by,
       created_at, updated_at
  FROM webhook
 WHERE id = %(id)s AND (%(owner)s::uuid IS NULL OR created_by = %(owner)s)
   FOR NO KEY UPDATE;

-- name: page
SELECT id, url, topics, filter, description, status, reason, failing_since, created_by,
       created_at, updated_at
  FROM webhook
 WHERE (%(owner)s::uuid IS NULL OR created_by = %(owner)s)
   AND (%(before)s::uuid IS NULL OR id < %(before)s)
 ORDER BY id DESC
 LIMIT %(limit)s;

-- name: update
-- Change a webhook. One that becomes active hears what happens from now on, and nothing of before.
UPDATE webhook
   SET url = %(url)s, topics = %(topics)s, filter = %(filter)s, description = %(description)s,
       status = %(status)s, updated_at = %(now)s,
       reason = CASE WHEN %(status)s = 'disabled' THEN reason ELSE '' END,
       listens_from = CASE WHEN status <> 'active' AND %(status)s = 'active'
                           THEN now() ELSE listens_from END,
       failing_since = CASE WHEN status <> 'active' OR url <> %(url)s THEN NULL
                            ELSE failing_since END
 WHERE id = %(id)s
RETURNING id, url, topics, filter, description, status, reason, failing_since, created_by,
          created_at, updated_at;

-- name: delete_deliveries
-- Before the webhook itself, in the order in which what came of attempts is written down.
DELETE FROM webhook_delivery WHERE webhook_id = %(id)s;

-- name: delete
DELETE FROM webhook WHERE id = %(id)s;

-- name: add_secret
INSERT INTO webhook_secret (id, webhook_id, ciphertext, key_id)
VALUES (%(id)s, %(webhook_id)s, %(ciphertext)s, %(key_id)s);

-- name: forget_secrets
-- Remove those that were replaced before: no more than two sign at a time.
DELETE FROM webhook_secret WHERE webhook_id = %(webhook_id)s AND expires_at IS NOT NULL;

-- name: end_secrets
-- Let the present secret sign until an instant of the database's time.
UPDATE webhook_secret SET expires_at = now() + %(overlap)s WHERE webhook_id = %(webhook_id)s;

-- name: secrets
-- The secrets that sign for webhooks, the newest first.
SELECT webhook_id, key_id, ciphertext
  FROM webhook_secret
 WHERE webhook_id = ANY(%(ids)s::uuid[])
   AND (expires_at IS NULL OR expires_at > coalesce(%(now)s, now()))
 ORDER BY webhook_id, id DESC;

-- name: old
-- Some secrets that another key than the current one encrypted, held until they are written anew.
SELECT id, webhook_id, 'webhook', key_id, ciphertext
  FROM webhook_secret
 WHERE key_id <> %(key_id)s
 ORDER BY id
 LIMIT %(limit)s
   FOR UPDATE;

-- name: reseal
UPDATE webhook_secret AS s
   SET ciphertext = n.ciphertext, key_id = %(key_id)s
  FROM unnest(%(ids)s::uuid[], %(ciphertexts)s::bytea[]) AS n (id, ciphertext)
 WHERE s.id = n.id;
