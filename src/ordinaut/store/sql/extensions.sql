-- name: choices
SELECT id, enabled FROM extension;

-- name: choose
-- Turn an extension on or off and return what was chosen before, if anything.
WITH former AS (SELECT enabled FROM extension WHERE id = %(id)s)
INSERT INTO extension AS e (id, enabled) VALUES (%(id)s, %(enabled)s)
ON CONFLICT (id) DO UPDATE SET enabled = excluded.enabled, updated_at = now()
RETURNING (SELECT enabled FROM former);

-- name: configured
SELECT id, config, agent_id, updated_at FROM extension_config
 WHERE %(id)s::text IS NULL OR id = %(id)s;

-- name: configure
INSERT INTO extension_config (id, config, agent_id, updated_at)
VALUES (%(id)s, %(config)s, %(agent)s, %(now)s)
ON CONFLICT (id) DO UPDATE
   SET config = excluded.config, agent_id = excluded.agent_id, updated_at = excluded.updated_at;

-- name: forget
DELETE FROM extension_config WHERE id = %(id)s RETURNING id;

-- name: lead
-- Take a task that nobody holds, or go on with our own; a row when it is ours.
INSERT INTO leader AS l (name, holder, epoch, until)
VALUES (%(name)s, %(holder)s, 1, clock_timestamp() + %(lease)s)
ON CONFLICT (name) DO UPDATE
   SET epoch = l.epoch + (l.holder IS DISTINCT FROM excluded.holder)::integer,
       holder = excluded.holder, until = excluded.until
 WHERE l.holder IS NULL OR l.holder = excluded.holder OR l.until < clock_timestamp()
RETURNING true;

-- name: follow
-- Give a task back so that another process need not wait.
UPDATE leader SET holder = NULL, until = '-infinity'
 WHERE name = %(name)s AND holder = %(holder)s;
