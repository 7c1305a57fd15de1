-- name: insert
INSERT INTO agent (id, name, scopes, subject)
VALUES (%(id)s, %(name)s, %(scopes)s, %(subject)s)
RETURNING id, name, scopes, status, subject, created_at, updated_at;

-- name: get
SELECT id, name, scopes, status, subject, created_at, updated_at
  FROM agent
 WHERE id = %(id)s AND deleted_at IS NULL;

-- name: lock
-- Read an agent that is about to change; a second writer waits.
SELECT id, name, scopes, status, subject, created_at, updated_at
  FROM agent
 WHERE id = %(id)s AND deleted_at IS NULL
   FOR UPDATE;

-- name: page
SELECT id, name, scopes, status, subject, created_at, updated_at
  FROM agent
 WHERE deleted_at IS NULL
   AND (%(before)s::uuid IS NULL OR id < %(before)s)
 ORDER BY id DESC
 LIMIT %(limit)s;

-- name: update
UPDATE agent
   SET name = %(name)s, scopes = %(scopes)s, status = %(status)s, subject = %(subject)s,
       updated_at = now()
 WHERE id = %(id)s
RETURNING id, name, scopes, status, subject, created_at, updated_at;

-- name: delete
-- The row stays, since tasks and the audit log point at it; its name becomes free.
WITH keys AS (
    UPDATE api_key SET revoked_at = now() WHERE agent_id = %(id)s AND revoked_at IS NULL
), families AS (
    UPDATE refresh_token SET revoked_at = now() WHERE agent_id = %(id)s AND revoked_at IS NULL
)
UPDATE agent
   SET deleted_at = now(), updated_at = now(), status = 'disabled', name = name || ' ' || id,
       subject = NULL
 WHERE id = %(id)s;

-- name: insert_key
INSERT INTO api_key (id, agent_id, name, prefix, digest, expires_at)
VALUES (%(id)s, %(agent_id)s, %(name)s, %(prefix)s, %(digest)s, %(expires_at)s)
RETURNING id, agent_id, name, prefix, created_at, expires_at, last_used_at, revoked_at;

-- name: keys
SELECT id, agent_id, name, prefix, created_at, expires_at, last_used_at, revoked_at
  FROM api_key
 WHERE agent_id = %(agent_id)s
 ORDER BY id DESC;

-- name: revoke_key
UPDATE api_key
   SET revoked_at = now()
 WHERE id = %(id)s AND agent_id = %(agent_id)s AND revoked_at IS NULL
RETURNING id;

-- name: by_key
-- Whose key this is, if it is valid. The time of use is written at most once a minute.
WITH found AS (
    SELECT k.id AS key_id, k.last_used_at, a.id, a.name, a.scopes, a.status
      FROM api_key k
      JOIN agent a ON a.id = k.agent_id
     WHERE k.digest = ANY(%(digests)s)
       AND k.revoked_at IS NULL
       AND (k.expires_at IS NULL OR k.expires_at > %(now)s)
       AND a.status = 'active'
       AND a.deleted_at IS NULL
), used AS (
    UPDATE api_key
       SET last_used_at = %(now)s
     WHERE id = (SELECT key_id FROM found
                  WHERE last_used_at IS NULL OR last_used_at < %(now)s - interval '1 minute')
)
SELECT id, name, scopes, status FROM found;

-- name: rehash_key
-- A key that was used is stored anew, under the pepper of now.
UPDATE api_key SET digest = %(current)s WHERE digest = ANY(%(former)s);

-- name: by_token
-- The agent of an access token, unless the token or the family of its refresh token is revoked.
SELECT id, name, scopes, status
  FROM agent
 WHERE id = %(id)s
   AND status = 'active'
   AND deleted_at IS NULL
   AND NOT EXISTS (SELECT FROM revoked_token WHERE jti = %(jti)s)
   AND NOT EXISTS (
        SELECT FROM refresh_token WHERE family = %(family)s AND revoked_at IS NOT NULL);

-- name: by_subject
-- The agent of an access token that another issuer made, unless it is revoked.
SELECT id, name, scopes, status
  FROM agent
 WHERE subject = %(subject)s
   AND status = 'active'
   AND deleted_at IS NULL
   AND NOT EXISTS (SELECT FROM revoked_token WHERE jti = %(jti)s);

-- name: insert_refresh
INSERT INTO refresh_token (id, family, agent_id, digest, began_at, created_at, expires_at)
VALUES (%(id)s, %(family)s, %(agent_id)s, %(digest)s, %(began_at)s, %(now)s, %(expires_at)s);

-- name: use_refresh
-- Spend a refresh token. The lock lets one of two racing callers find it unspent.
WITH found AS (
    SELECT r.id, r.family, r.began_at, r.used_at, r.revoked_at, r.expires_at,
           a.id AS agent_id, a.name, a.scopes, a.status, a.deleted_at
      FROM refresh_token r
      JOIN agent a ON a.id = r.agent_id
     WHERE r.digest = ANY(%(digests)s)
       FOR UPDATE OF r
), spent AS (
    UPDATE refresh_token
       SET used_at = %(now)s
     WHERE id = (SELECT id FROM found WHERE used_at IS NULL)
)
SELECT family,
       began_at,
       used_at IS NOT NULL AS reused,
       revoked_at IS NULL AND expires_at > %(now)s
           AND status = 'active' AND deleted_at IS NULL AS valid,
       agent_id, name, scopes, status
  FROM found;

-- name: revoke_family
UPDATE refresh_token SET revoked_at = %(now)s WHERE family = %(family)s AND revoked_at IS NULL;

-- name: revoke_refresh
-- Revoke the whole family that a refresh token belongs to.
UPDATE refresh_token
   SET revoked_at = %(now)s
 WHERE family = (SELECT family FROM refresh_token WHERE digest = ANY(%(digests)s))
   AND (%(owner)s::uuid IS NULL OR agent_id = %(owner)s)
   AND revoked_at IS NULL;

-- name: revoke_access
INSERT INTO revoked_token (jti, expires_at)
VALUES (%(jti)s, %(expires_at)s)
ON CONFLICT DO NOTHING;

-- name: admin_of_key
-- The agent of a key, whatever its state: what a bootstrap must not make a second time.
SELECT a.id, a.name, a.scopes, a.status
  FROM api_key k
  JOIN agent a ON a.id = k.agent_id
 WHERE k.digest = %(digest)s;

-- name: lock_bootstrap
-- Two processes that start together make one agent.
SELECT pg_advisory_xact_lock(hashtextextended('ordinaut.bootstrap', 0));

-- name: by_name
SELECT id, name, scopes, status FROM agent WHERE name = %(name)s AND deleted_at IS NULL;
