-- name: hold
-- Keep runs as they are until commit, and tell their states and the time.
SELECT id, state, coalesce(%(now)s, now()) FROM due_work
 WHERE id = ANY(%(run_ids)s::uuid[])
 ORDER BY id
   FOR UPDATE;

-- name: questions
-- What a run waits for, and what people have answered to it; the oldest first.
SELECT step_id, status, attempt, started_at, finished_at, uses, item, output, error
  FROM step_run
 WHERE run_id = %(run_id)s
   AND (status = 'waiting' OR error -> 'details' ? 'approved' OR uses = '' AND output ? 'approved')
 ORDER BY started_at, step_id, item;

-- name: answer
-- Write down the answers to steps that wait.
WITH answered AS (
    UPDATE step_run AS s
       SET status = given.status, finished_at = coalesce(%(now)s, now()),
           output = given.output::jsonb, error = given.error::jsonb
      FROM unnest(%(run_ids)s::uuid[], %(step_ids)s::text[], %(items)s::integer[],
                  %(statuses)s::text[], %(outputs)s::text[], %(errors)s::text[],
                  %(announce)s::boolean[])
           AS given (run_id, step_id, item, status, output, error, announce)
     WHERE s.run_id = given.run_id AND s.step_id = given.step_id AND s.item = given.item
       AND s.status = 'waiting'
    RETURNING s.run_id, s.step_id, s.item, s.attempt, given.announce
)
INSERT INTO event (occurred_at, topic, task_id, run_id, data)
SELECT coalesce(%(now)s, now()), 'step.succeeded',
       (SELECT task_id FROM due_work WHERE id = run_id), run_id,
       jsonb_build_object('step_id', step_id, 'item', nullif(item, -1), 'attempt', attempt)
  FROM answered
 WHERE announce;

-- name: forget
-- Forget calls that may or may not have happened, so that they are made again.
DELETE FROM step_run
 WHERE run_id = %(run_id)s AND status = 'waiting'
   AND output #>> '{wait,kind}' = 'effect_unknown';

-- name: wake
-- Make ready what waits.
WITH woken AS (
    UPDATE due_work AS w
       SET state = 'ready', resumed = true, run_at = coalesce(%(now)s, now()),
           sort_key = (date_part('epoch', coalesce(%(now)s, now())) * 1000)::bigint
                      - w.priority * 60000
     WHERE w.id = ANY(%(run_ids)s::uuid[]) AND w.state = 'waiting'
    RETURNING w.id, w.task_id, w.scheduled_for
)
INSERT INTO event (occurred_at, topic, task_id, run_id, data)
SELECT coalesce(%(now)s, now()), 'run.queued', task_id, id,
       jsonb_build_object('reason', %(reason)s::text, 'scheduled_for', scheduled_for)
  FROM woken;

-- name: listening
-- Whether any run waits for an event, or was not looked at.
SELECT EXISTS (SELECT FROM due_work WHERE state = 'waiting' AND hears IS NOT NULL);

-- name: take
-- How far the outbox was read for runs that wait, how far it goes now, and whether anything is in
-- between. No row: another process reads. No place: the database was restored from the dump of
-- another cluster.
SELECT CASE WHEN pg_snapshot_xmax(c.snapshot) <= pg_snapshot_xmax(pg_current_snapshot())
            THEN c.snapshot::text END,
       pg_current_snapshot()::text,
       EXISTS (SELECT FROM event
                WHERE xid >= pg_snapshot_xmax(c.snapshot)
                   OR xid = ANY(ARRAY(SELECT pg_snapshot_xip(c.snapshot))))
  FROM event_cursor AS c WHERE name = 'waits'
   FOR UPDATE SKIP LOCKED;

-- name: move
UPDATE event_cursor SET snapshot = %(target)s::pg_snapshot, updated_at = now()
 WHERE name = 'waits';

-- name: look_again
-- Treat all that waits as if nobody had looked at it.
UPDATE due_work SET hears = '{}' WHERE state = 'waiting' AND hears <> '{}';

-- name: fresh
-- What was committed between two snapshots and somebody listens for, in the order of the outbox.
-- A key is a topic, or for those with a wildcard the number of words: *3. Few topics are spoken
-- of at a time, however many are listened for, so it is those that are looked up.
WITH spoken AS MATERIALIZED (
    SELECT DISTINCT topic
      FROM fact
     WHERE (xid >= pg_snapshot_xmax(%(snapshot)s::pg_snapshot)
            OR xid = ANY(ARRAY(SELECT pg_snapshot_xip(%(snapshot)s::pg_snapshot))))
       AND pg_visible_in_snapshot(xid, %(target)s::pg_snapshot)
       AND seq > %(after)s
), heard AS MATERIALIZED (
    SELECT DISTINCT unnest(hears) AS key
      FROM due_work
     WHERE state = 'waiting' AND hears <> '{}'
       AND hears && ARRAY(SELECT topic FROM spoken
                          UNION
                          SELECT '*' || cardinality(string_to_array(topic, '.')) FROM spoken)
)
SELECT seq, occurred_at, topic, task_id, run_id, subject, data,
       CASE WHEN topic LIKE 'webhook.%%'
            THEN (SELECT id FROM agent AS a WHERE a.id::text = fact.data ->> 'agent_id')
            ELSE (SELECT created_by FROM task AS t WHERE t.id = fact.task_id) END
  FROM fact
 WHERE (xid >= pg_snapshot_xmax(%(snapshot)s::pg_snapshot)
        OR xid = ANY(ARRAY(SELECT pg_snapshot_xip(%(snapshot)s::pg_snapshot))))
   AND pg_visible_in_snapshot(xid, %(target)s::pg_snapshot)
   AND seq > %(after)s
   AND (topic IN (SELECT key FROM heard)
        OR '*' || cardinality(string_to_array(topic, '.')) IN (SELECT key FROM heard))
 ORDER BY seq LIMIT %(limit)s;

-- name: past
-- What happened since an instant under these keys.
SELECT seq, occurred_at, topic, task_id, run_id, subject, data,
       CASE WHEN topic LIKE 'webhook.%%'
            THEN (SELECT id FROM agent AS a WHERE a.id::text = fact.data ->> 'agent_id')
            ELSE (SELECT created_by FROM task AS t WHERE t.id = fact.task_id) END
  FROM fact
 WHERE occurred_at >= %(since)s
   AND place > %(after)s AND seq > %(after)s
   AND (topic = ANY(%(keys)s) OR '*' || cardinality(string_to_array(topic, '.')) = ANY(%(keys)s))
 ORDER BY place, seq LIMIT %(limit)s;

-- name: unheard
-- Runs that began to wait and were not looked at; some have their answer already, because it
-- came while they were under way.
SELECT w.id,
       EXISTS (SELECT FROM jsonb_array_elements(w.wait) AS asked
                 JOIN step_run AS s ON s.run_id = w.id AND s.step_id = asked ->> 'step_id'
                                   AND s.item = coalesce((asked ->> 'index')::integer, -1)
                WHERE s.status <> 'waiting')
  FROM due_work AS w
 WHERE w.state = 'waiting' AND w.hears = '{}'
 ORDER BY w.id LIMIT %(limit)s
   FOR UPDATE SKIP LOCKED;

-- name: asked
-- The questions that events may answer: of runs that listen for one of these keys, and of these
-- runs.
SELECT w.id, s.step_id, s.started_at, t.created_by, a.scopes && '{admin,events:read:all}',
       s.output -> 'wait'
  FROM due_work AS w
  JOIN step_run AS s ON s.run_id = w.id AND s.status = 'waiting'
                    AND s.output #>> '{wait,kind}' = 'event'
  JOIN task AS t ON t.id = w.task_id
  JOIN agent AS a ON a.id = t.created_by
 WHERE w.state = 'waiting'
   AND (w.hears && %(keys)s::text[] OR w.id = ANY(%(run_ids)s::uuid[]));

-- name: hear
-- Remember what runs listen for, now that they were looked at; no key: for no event.
UPDATE due_work AS w
   SET hears = (SELECT array_agg(l.key) FROM unnest(%(of)s::uuid[], %(keys)s::text[]) AS l (id, key)
                 WHERE l.id = w.id)
 WHERE w.id = ANY(%(run_ids)s::uuid[]) AND w.state = 'waiting' AND w.hears = '{}';
