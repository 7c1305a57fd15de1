-- name: choices
SELECT id, enabled FROM extension;

-- name: choose
-- Turn an extension on or off and return what was chosen before, if anything.
WITH former AS (SELECT enabled FROM extension WHERE id = %(id)s)
INSERT INTO extension AS e (id, enabled) VALUES (%(id)s, %(enabled)s)
ON CONFLICT (id) DO UPDATE SET enabled = excluded.enabled, updated_at = now()
RETURNING (SELECT enabled FROM former);
