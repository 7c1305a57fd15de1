-- name: ensure_partitions
-- Prepare the partitions of some days; those that exist are left alone.
SELECT ensure_partitions(%(first)s, %(days)s);

-- name: partitions
-- The daily partitions of a table, by name.
SELECT child.relname
  FROM pg_inherits AS i
  JOIN pg_class AS child ON child.oid = i.inhrelid
 WHERE i.inhparent = to_regclass(%(parent)s) AND child.relname ~ '_\d{8}$'
 ORDER BY child.relname;

-- name: drop_partition
SELECT drop_partition(%(name)s);

-- name: lives
-- Whether a run that began in this time has not ended.
SELECT EXISTS (
    SELECT FROM due_work WHERE id >= uuid7_floor(%(begins)s) AND id < uuid7_floor(%(ends)s));

-- name: is_read
-- Whether readers of the outbox have passed all events of the partitions that end before an
-- instant. What one has not read is looked up as that reader does, by the index.
SELECT bool_and(NOT EXISTS (
           SELECT FROM event AS e
            WHERE e.occurred_at < %(before)s
              AND (e.xid >= pg_snapshot_xmax(c.snapshot)
                   OR e.xid = ANY(ARRAY(SELECT pg_snapshot_xip(c.snapshot))))))
  FROM event_cursor AS c WHERE c.name = ANY(%(readers)s);

-- name: lock_timeout
-- Rather come again later than make everybody wait behind us.
SELECT set_config('lock_timeout', '1s', true);

-- name: old_runs
-- Runs of days that had no partition.
DELETE FROM task_run_default WHERE id < uuid7_floor(%(before)s);

-- name: brief_runs
-- Runs of tasks that keep theirs for a shorter time, with their steps and lines, some at a time.
WITH past AS (
    SELECT r.id
      FROM task AS t CROSS JOIN LATERAL (
           SELECT id FROM task_run
            WHERE task_id = t.id
              AND id < uuid7_floor(%(now)s - make_interval(days => t.retention_days))
            LIMIT %(limit)s) AS r
     WHERE t.retention_days IS NOT NULL
     LIMIT %(limit)s
), lines AS (
    DELETE FROM run_log USING past WHERE run_id = past.id
), steps AS (
    DELETE FROM step_run USING past WHERE run_id = past.id
)
DELETE FROM task_run USING past WHERE task_run.id = past.id;

-- name: brief_occurrences
DELETE FROM occurrence AS o
 WHERE ctid = ANY(ARRAY(
       SELECT o.ctid FROM task AS t JOIN occurrence AS o ON o.task_id = t.id
        WHERE t.retention_days IS NOT NULL
          AND o.decided_at < %(now)s - make_interval(days => t.retention_days)
        LIMIT %(limit)s));

-- name: old_steps
DELETE FROM step_run_default AS s
 WHERE s.run_id < uuid7_floor(%(before)s)
   AND NOT EXISTS (SELECT FROM due_work AS w WHERE w.id = s.run_id);

-- name: old_lines
DELETE FROM run_log_default AS l
 WHERE l.run_id < uuid7_floor(%(before)s)
   AND NOT EXISTS (SELECT FROM due_work AS w WHERE w.id = l.run_id);

-- name: old_events
DELETE FROM event_default AS e
 WHERE e.occurred_at < %(before)s
   AND (SELECT bool_and(pg_visible_in_snapshot(e.xid, c.snapshot))
          FROM event_cursor AS c WHERE c.name = ANY(%(readers)s));

-- name: old_occurrences
DELETE FROM occurrence
 WHERE ctid = ANY(ARRAY(SELECT ctid FROM occurrence WHERE decided_at < %(before)s LIMIT 10000));

-- name: old_downtimes
DELETE FROM downtime WHERE ended_at < %(before)s;

-- name: old_pauses
-- A pause is needed until the tick has decided what fell into it.
DELETE FROM pause AS p USING schedule AS s
 WHERE s.task_id = p.task_id AND p.ended_at < %(before)s AND p.ended_at < s.decided_until;

-- name: old_answers
-- Idempotency keys are remembered for a day.
DELETE FROM idempotency WHERE created_at < %(before)s;

-- name: old_starts
DELETE FROM rated_start WHERE until < %(before)s;

-- name: old_tokens
DELETE FROM refresh_token WHERE expires_at < %(before)s;

-- name: old_sessions
DELETE FROM browser_session WHERE expires_at < %(before)s;

-- name: old_revocations
DELETE FROM revoked_token WHERE expires_at < %(before)s;

-- name: old_processes
DELETE FROM worker WHERE heartbeat_at < %(before)s;

-- name: old_deliveries
-- What was delivered to webhooks, or given up.
DELETE FROM webhook_delivery
 WHERE ctid = ANY(ARRAY(SELECT ctid FROM webhook_delivery
                         WHERE status <> 'pending' AND finished_at < %(before)s LIMIT 10000));

-- name: old_signatures
-- Secrets of webhooks that were replaced and sign no more.
DELETE FROM webhook_secret WHERE expires_at < %(before)s;
