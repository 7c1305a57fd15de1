-- name: insert
-- A session of the agent whose valid key has one of these digests.
INSERT INTO browser_session (id, agent_id, api_key_id, digest, created_at, seen_at, expires_at)
SELECT %(id)s, k.agent_id, k.id, %(digest)s, %(now)s, %(now)s, %(expires_at)s
  FROM api_key AS k
 WHERE k.digest = ANY(%(keys)s);

-- name: find
-- Whose session this is, while it, its key and its agent are good. That it was used is written
-- at most once a minute.
WITH found AS (
    SELECT s.id AS session_id, s.seen_at, s.expires_at, a.id, a.name, a.scopes, a.status
      FROM browser_session AS s
      JOIN api_key AS k ON k.id = s.api_key_id
      JOIN agent AS a ON a.id = s.agent_id
     WHERE s.digest = ANY(%(digests)s)
       AND s.ended_at IS NULL
       AND s.expires_at > %(now)s
       AND s.seen_at > %(idle_since)s
       AND k.revoked_at IS NULL
       AND (k.expires_at IS NULL OR k.expires_at > %(now)s)
       AND a.status = 'active'
       AND a.deleted_at IS NULL
), used AS (
    UPDATE browser_session
       SET seen_at = %(now)s
     WHERE id = (SELECT session_id FROM found WHERE seen_at < %(now)s - interval '1 minute')
)
SELECT session_id, expires_at, id, name, scopes, status FROM found;

-- name: end
UPDATE browser_session SET ended_at = %(now)s WHERE id = %(id)s AND ended_at IS NULL;
