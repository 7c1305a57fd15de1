-- name: emit
-- Write facts into the outbox, in the order given, inside the caller's transaction.
INSERT INTO event (occurred_at, topic, task_id, run_id, subject, data)
SELECT coalesce(%(now)s, now()), topic, task_id, run_id, subject, data
  FROM unnest(%(topics)s::text[], %(task_ids)s::uuid[], %(run_ids)s::uuid[],
              %(subjects)s::text[], %(data)s::jsonb[])
       AS given (topic, task_id, run_id, subject, data);

-- name: hint
-- Wake the relay; once after a batch, because a NOTIFY makes commits queue up.
SELECT pg_notify('ordinaut_event', '');

-- name: read_events
-- One page of the outbox, newest first, for a person who asks what happened.
SELECT seq, occurred_at, topic, task_id, run_id, subject, data
  FROM fact
 WHERE (%(before)s::bigint IS NULL OR seq < %(before)s AND place < %(before)s + 1000)
   AND (%(topic)s::text IS NULL OR topic ~ %(topic)s)
   AND (%(subject)s::text IS NULL OR subject = %(subject)s)
   AND (%(task_id)s::uuid IS NULL OR task_id = %(task_id)s)
   AND (%(since)s::timestamptz IS NULL OR occurred_at >= %(since)s)
   AND (%(until)s::timestamptz IS NULL OR occurred_at < %(until)s)
 ORDER BY place DESC, seq DESC
 LIMIT %(limit)s;

-- name: lock_cursor
-- Take the relay's place for this transaction. No row: another relay is at work. The last column
-- says that the place is one which this database has never been at.
SELECT snapshot::text, target::text, seq,
       pg_snapshot_xmax(coalesce(target, snapshot)) > pg_snapshot_xmax(pg_current_snapshot())
  FROM event_cursor WHERE name = %(name)s
   FOR UPDATE SKIP LOCKED;

-- name: renumber
-- Give events from a dump numbers of this cluster: 3 for those that the cursor has passed, the
-- present one for all others, among them what may have been written here since.
UPDATE event
   SET xid = CASE WHEN xid >= pg_snapshot_xmax(pg_current_snapshot())
                   AND (pg_visible_in_snapshot(xid, %(snapshot)s::pg_snapshot)
                        OR (seq <= %(seq)s
                            AND pg_visible_in_snapshot(xid, %(target)s::pg_snapshot)))
                  THEN xid8 '3' ELSE pg_current_xact_id() END;

-- name: rebase
-- Point the cursor before this transaction and before all that are in progress.
WITH running AS (
    SELECT xid FROM pg_snapshot_xip(pg_current_snapshot()) AS xid
    UNION
    SELECT pg_current_xact_id()
)
UPDATE event_cursor
   SET snapshot = (SELECT format('%%s:%%s:%%s', min(xid),
                                 greatest(max(xid)::text::bigint + 1,
                                          pg_snapshot_xmax(pg_current_snapshot())::text::bigint),
                                 string_agg(xid::text, ',' ORDER BY xid))
                     FROM running)::pg_snapshot,
       target = NULL, seq = 0, updated_at = now()
 WHERE name = %(name)s
RETURNING snapshot::text;

-- name: fresh
-- What was committed since the cursor's snapshot: what came after it or was in progress then.
-- Not in the order of place, or the planner may walk through the whole outbox to find it.
SELECT (SELECT pg_current_snapshot()::text),
       seq, occurred_at, topic, task_id, run_id, subject, data::text
  FROM fact
 WHERE xid >= pg_snapshot_xmax(%(snapshot)s::pg_snapshot)
    OR xid = ANY(ARRAY(SELECT pg_snapshot_xip(%(snapshot)s::pg_snapshot)))
 ORDER BY seq LIMIT %(limit)s;

-- name: backlog
-- The next events of a round that is too big for one batch, in the order of the sequence.
SELECT seq, occurred_at, topic, task_id, run_id, subject, data::text
  FROM fact
 WHERE place > %(seq)s AND seq > %(seq)s
   AND pg_visible_in_snapshot(xid, %(target)s::pg_snapshot)
   AND NOT pg_visible_in_snapshot(xid, %(snapshot)s::pg_snapshot)
 ORDER BY place, seq LIMIT %(limit)s;

-- name: save_cursor
-- Move the cursor, unless to a place that this database has never seen.
UPDATE event_cursor
   SET snapshot = %(snapshot)s::pg_snapshot, target = %(target)s::pg_snapshot, seq = %(seq)s,
       updated_at = now()
 WHERE name = %(name)s
   AND pg_snapshot_xmax(coalesce(%(target)s, %(snapshot)s)::pg_snapshot)
       <= pg_snapshot_xmax(pg_current_snapshot())
RETURNING true;

-- name: refill_from
-- The place of the event before the newest so many.
SELECT coalesce(
    (SELECT seq FROM event ORDER BY seq DESC OFFSET %(keep)s LIMIT 1), 0);

-- name: refill
-- Events that the cursor has already passed, for a Redis that lost them.
SELECT seq, occurred_at, topic, task_id, run_id, subject, data::text
  FROM fact
 WHERE place > %(after)s AND seq > %(after)s
   AND (pg_visible_in_snapshot(xid, %(snapshot)s::pg_snapshot)
        OR seq <= %(seq)s AND pg_visible_in_snapshot(xid, %(target)s::pg_snapshot))
 ORDER BY place, seq LIMIT %(limit)s;
