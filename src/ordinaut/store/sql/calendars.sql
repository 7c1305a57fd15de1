-- name: definitions
-- What those of the calendars say that exist.
SELECT name, definition FROM calendar WHERE name = ANY(%(names)s);

-- name: changed
-- The calendars that tasks exclude; the definition only where the one that is known is old.
SELECT c.name, c.id, c.version,
       CASE WHEN (c.id, c.version) IS DISTINCT FROM (known.id, known.version)
            THEN c.definition END
  FROM unnest(%(names)s::text[], %(ids)s::uuid[], %(versions)s::integer[])
       AS known (name, id, version)
  JOIN calendar AS c USING (name);

-- name: page
SELECT id, name, definition, version, created_by, created_at, updated_at
  FROM calendar
 WHERE %(before)s::uuid IS NULL OR id < %(before)s
 ORDER BY id DESC
 LIMIT %(limit)s;

-- name: get
SELECT id, name, definition, version, created_by, created_at, updated_at
  FROM calendar
 WHERE name = %(name)s;

-- name: create
INSERT INTO calendar (id, name, definition, created_by, created_at, updated_at)
VALUES (%(id)s, %(name)s, %(definition)s, %(created_by)s, %(now)s, %(now)s)
    ON CONFLICT ON CONSTRAINT calendar_name_unique DO NOTHING
RETURNING id, name, definition, version, created_by, created_at, updated_at;

-- name: replace
UPDATE calendar
   SET definition = %(definition)s, version = version + 1, updated_at = %(now)s
 WHERE name = %(name)s AND (%(owner)s::uuid IS NULL OR created_by = %(owner)s)
RETURNING id, name, definition, version, created_by, created_at, updated_at;

-- name: delete
DELETE FROM calendar
 WHERE name = %(name)s AND (%(owner)s::uuid IS NULL OR created_by = %(owner)s)
RETURNING id;

-- name: users
-- Lock the schedules of tasks that exclude a calendar and may still fire.
SELECT s.task_id
  FROM schedule s
  JOIN task t ON t.id = s.task_id
 WHERE %(name)s = ANY(t.exclude)
   AND t.status IN ('active', 'paused')
   AND t.deleted_at IS NULL
 ORDER BY s.task_id
   FOR UPDATE OF s;
