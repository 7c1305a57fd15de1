-- name: pending
-- Whether anything was committed since a reader last read the outbox.
SELECT EXISTS (
    SELECT FROM event AS e
     WHERE e.xid >= pg_snapshot_xmax(c.snapshot)
        OR e.xid = ANY(ARRAY(SELECT pg_snapshot_xip(c.snapshot))))
    OR pg_snapshot_xmax(c.snapshot) > pg_snapshot_xmax(pg_current_snapshot())
  FROM event_cursor AS c WHERE name = %(reader)s;

-- name: take
-- How far a reader has read the outbox, and how far it goes now. No row: another process reads.
-- No place: the database was restored from the dump of another cluster.
SELECT now(),
       CASE WHEN pg_snapshot_xmax(coalesce(target, snapshot))
                 <= pg_snapshot_xmax(pg_current_snapshot()) THEN snapshot::text END,
       coalesce(target, pg_current_snapshot())::text, seq, pg_current_snapshot()::text
  FROM event_cursor WHERE name = %(reader)s
   FOR UPDATE SKIP LOCKED;

-- name: listeners
-- The tasks that events start; the last column says that their owner may hear of all tasks.
SELECT t.id, t.schedule_expr, t.created_by, a.scopes && '{admin,events:read:all}'
  FROM task AS t JOIN agent AS a ON a.id = t.created_by
 WHERE t.schedule_kind IN ('event', 'condition')  -- as the index says
   AND t.schedule_kind = 'event'
   AND t.status = 'active' AND t.deleted_at IS NULL;

-- name: fresh
-- What was committed between two snapshots under these keys, in the order of the outbox. The
-- last column: how many runs, each started by an event of the one before, led to the event.
SELECT seq, occurred_at, topic, task_id, run_id, subject, data,
       CASE WHEN topic LIKE 'webhook.%%'
            THEN (SELECT id FROM agent AS a WHERE a.id::text = e.data ->> 'agent_id')
            ELSE (SELECT created_by FROM task AS t WHERE t.id = e.task_id) END,
       CASE WHEN run_id IS NULL THEN 0 ELSE 1 + coalesce(
           (SELECT coalesce(payload #>> '{event,depth}', payload ->> 'depth')
              FROM due_work AS w WHERE w.id = e.run_id),
           (SELECT coalesce(payload #>> '{event,depth}', payload ->> 'depth')
              FROM task_run AS r WHERE r.id = e.run_id),
           '0')::integer END
  FROM fact AS e
 WHERE (xid >= pg_snapshot_xmax(%(snapshot)s::pg_snapshot)
        OR xid = ANY(ARRAY(SELECT pg_snapshot_xip(%(snapshot)s::pg_snapshot))))
   AND pg_visible_in_snapshot(xid, %(target)s::pg_snapshot)
   AND seq > %(after)s
   AND (topic = ANY(%(keys)s) OR '*' || cardinality(string_to_array(topic, '.')) = ANY(%(keys)s))
 ORDER BY seq LIMIT %(limit)s;

-- name: hold
-- Keep the schedules of tasks as they are until commit; load sees them in the next statement.
SELECT task_id FROM schedule WHERE task_id = ANY(%(ids)s::uuid[]) ORDER BY task_id FOR UPDATE;

-- name: depth
-- How deep a run that is under way lies.
SELECT coalesce(payload #>> '{event,depth}', payload ->> 'depth', '0')::integer
  FROM due_work WHERE id = %(run_id)s;
