-- name: open
-- The open windows of these tasks and keys. Their schedules are locked.
SELECT w.id, w.task_id, w.key, opened_at, last_at, closes_at, ended_by, count, held, bytes, depth,
       last
  FROM unnest(%(task_ids)s::uuid[], %(keys)s::text[]) AS g (task_id, key)
  JOIN event_window AS w ON w.task_id = g.task_id AND w.key = g.key AND w.ended_by IS NULL;

-- name: save
-- Store windows, new ones after those whose places they take.
INSERT INTO event_window (id, task_id, key, opened_at, last_at, closes_at, ended_by, count, held,
                          bytes, depth, last)
SELECT id, task_id, key, opened_at, last_at, closes_at, ended_by, count, held, bytes, depth, last
  FROM jsonb_to_recordset(%(windows)s) AS g (
       id uuid, task_id uuid, key text, opened_at timestamptz, last_at timestamptz,
       closes_at timestamptz, ended_by text, count integer, held integer, bytes integer,
       depth integer, last jsonb)
    ON CONFLICT (id) DO UPDATE
   SET last_at = excluded.last_at, closes_at = excluded.closes_at, ended_by = excluded.ended_by,
       count = excluded.count, held = excluded.held, bytes = excluded.bytes,
       depth = excluded.depth, last = excluded.last;

-- name: keep
-- Store events of windows before their last ones.
INSERT INTO window_event (window_id, place, event)
SELECT window_id, place, event
  FROM jsonb_to_recordset(%(events)s) AS g (window_id uuid, place integer, event jsonb);

-- name: make_room
-- End the windows of these tasks that are too many, those first that end soonest anyway.
UPDATE event_window
   SET ended_by = 'room', closes_at = least(closes_at, coalesce(%(now)s, now()))
 WHERE id IN (SELECT id
                FROM (SELECT id, row_number() OVER (PARTITION BY task_id
                                                    ORDER BY closes_at DESC, id DESC) AS nth
                        FROM event_window
                       WHERE task_id = ANY(%(task_ids)s::uuid[]) AND ended_by IS NULL) AS o
               WHERE nth > %(most)s);

-- name: seal
-- End what is open of tasks that changed; the tick decides what becomes of it.
UPDATE event_window
   SET ended_by = 'change', closes_at = least(closes_at, coalesce(%(now)s, now()))
 WHERE task_id = ANY(%(task_ids)s::uuid[]) AND ended_by IS NULL;

-- name: next_close
-- The earliest instant at which claim finds something.
SELECT min(closes_at) FROM event_window;

-- name: is_due
-- Whether claim finds something.
SELECT EXISTS (SELECT FROM event_window WHERE closes_at <= coalesce(%(now)s, now()));

-- name: claim
-- Lock the schedules of tasks of which a window is over; the caller reads in the next statement.
SELECT task_id FROM schedule
 WHERE task_id IN (SELECT task_id FROM event_window
                    WHERE closes_at <= coalesce(%(now)s, now())
                    ORDER BY closes_at LIMIT %(limit)s)
 ORDER BY task_id
   FOR UPDATE SKIP LOCKED;

-- name: over
-- The windows of these tasks that are over, each with its events, and the status of its task.
SELECT w.id, w.task_id, w.key, opened_at, last_at, closes_at, ended_by, count, held, bytes, depth,
       last, coalesce(%(now)s, now()), t.status,
       ARRAY(SELECT event FROM window_event AS e WHERE e.window_id = w.id ORDER BY place)
  FROM event_window AS w JOIN task AS t ON t.id = w.task_id
 WHERE w.task_id = ANY(%(task_ids)s::uuid[]) AND closes_at <= coalesce(%(now)s, now())
 ORDER BY closes_at, w.id LIMIT %(limit)s;

-- name: drop
-- Forget windows with their events.
DELETE FROM event_window WHERE id = ANY(%(ids)s::uuid[]);
