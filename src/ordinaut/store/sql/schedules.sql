-- name: set_next
-- Say when tasks fire next; what was undecided, paused or snoozed before is forgotten.
INSERT INTO schedule AS s (task_id, next_run_at, look_at, decided_until, tzdata)
SELECT task_id, next_run_at,
       CASE WHEN next_run_at IS NOT NULL THEN coalesce(%(now)s, now()) END,
       least(coalesce(%(now)s, now()), next_run_at - interval '1 microsecond'), %(tzdata)s
  FROM unnest(%(task_ids)s::uuid[], %(nexts)s::timestamptz[]) AS given (task_id, next_run_at)
    ON CONFLICT (task_id) DO UPDATE
   SET next_run_at = CASE WHEN s.paused_at IS NULL THEN excluded.next_run_at END,
       look_at = CASE WHEN s.paused_at IS NULL THEN excluded.look_at END,
       decided_until = excluded.decided_until, tzdata = excluded.tzdata,
       resumed_at = NULL, snoozed_for = NULL, snoozed_to = NULL;

-- name: pause
-- Let nothing fire from now on, and note since when.
WITH held AS (
    UPDATE schedule
       SET paused_at = coalesce(%(now)s, now()), next_run_at = NULL, look_at = NULL
     WHERE task_id = ANY(%(task_ids)s) AND paused_at IS NULL
    RETURNING task_id, paused_at
)
INSERT INTO pause (task_id, began_at) SELECT task_id, paused_at FROM held
RETURNING task_id;

-- name: resume
-- End pauses; next_run_at lies in the past when something fell into them, and the tick decides.
WITH given AS (
    SELECT * FROM unnest(%(task_ids)s::uuid[], %(nexts)s::timestamptz[]) AS g (task_id, next_run_at)
), ended AS (
    UPDATE pause AS p
       SET ended_at = greatest(coalesce(%(now)s, now()), p.began_at), catchup = %(catchup)s
      FROM given
     WHERE p.task_id = given.task_id AND p.ended_at IS NULL
)
UPDATE schedule AS s
   SET paused_at = NULL, resumed_at = coalesce(%(now)s, now()), next_run_at = given.next_run_at,
       look_at = CASE WHEN given.next_run_at IS NOT NULL THEN coalesce(%(now)s, now()) END
  FROM given
 WHERE s.task_id = given.task_id AND s.paused_at IS NOT NULL
RETURNING s.task_id;

-- name: snooze
-- Move the occurrence that is next to another instant; the others keep theirs.
UPDATE schedule
   SET snoozed_for = %(occurrence)s, snoozed_to = %(to)s,
       decided_until = greatest(decided_until, %(occurrence)s), next_run_at = %(next)s
 WHERE task_id = %(task_id)s AND paused_at IS NULL
RETURNING task_id;

-- name: claim
-- Take due schedules that no other scheduler has taken.
SELECT coalesce(%(now)s, now()), task_id
  FROM schedule
 WHERE least(next_run_at, look_at) <= coalesce(%(now)s, now())
 ORDER BY least(next_run_at, look_at) LIMIT %(limit)s
   FOR UPDATE SKIP LOCKED;

-- name: load
-- What decides when tasks fire. After claim, in a statement of its own: only then does it see
-- the definition that belongs to the schedule which claim locked.
SELECT t.id, t.version, t.status = 'active' AND t.deleted_at IS NULL,
       t.schedule_kind, t.schedule_expr, t.timezone, t.anchor, t.starts_at, t.ends_at,
       t.dst_gap, t.dst_fold, t.exclude, t.on_excluded,
       t.priority, t.catchup, t.catchup_window_seconds, t.overlap, t.jitter_seconds, t.max_runs,
       t.concurrency_key, t.max_concurrency, t.rate_limit, t.created_by,
       s.next_run_at, s.decided_until, s.fired, s.resumed_at, s.snoozed_for, s.snoozed_to,
       t.event_window
  FROM schedule AS s JOIN task AS t ON t.id = s.task_id
 WHERE s.task_id = ANY(%(ids)s::uuid[]);

-- name: pauses
-- The pauses that ended after their tasks' undecided time began.
SELECT p.task_id, p.began_at, p.ended_at, p.catchup
  FROM pause AS p JOIN schedule AS s USING (task_id)
 WHERE p.task_id = ANY(%(ids)s::uuid[]) AND p.ended_at > s.decided_until
 ORDER BY p.task_id, p.began_at;

-- name: live
-- Which of these tasks have a run that has not ended.
SELECT DISTINCT task_id FROM due_work WHERE task_id = ANY(%(ids)s::uuid[]);

-- name: advance
-- Move schedules on. No "next_run_at is still what was read": claim locked the rows.
UPDATE schedule AS s
   SET next_run_at = g.next_run_at, look_at = g.look_at, decided_until = g.decided_until,
       last_scheduled_for = coalesce(g.last_scheduled_for, s.last_scheduled_for),
       fired = s.fired + g.fired,
       resumed_at = CASE WHEN s.resumed_at > g.decided_until THEN s.resumed_at END,
       snoozed_for = CASE WHEN g.snoozed THEN s.snoozed_for END,
       snoozed_to = CASE WHEN g.snoozed THEN s.snoozed_to END
  FROM unnest(%(ids)s::uuid[], %(nexts)s::timestamptz[], %(looks)s::timestamptz[],
              %(decided)s::timestamptz[], %(lasts)s::timestamptz[], %(fired)s::integer[],
              %(snoozed)s::boolean[])
       AS g (task_id, next_run_at, look_at, decided_until, last_scheduled_for, fired, snoozed)
 WHERE s.task_id = g.task_id AND s.task_id = ANY(%(ids)s::uuid[]);

-- name: end_tasks
-- Give tasks a status after which nothing fires.
UPDATE task
   SET status = %(status)s, updated_at = coalesce(%(now)s, now())
 WHERE id = ANY(%(ids)s::uuid[]) AND status = 'active';

-- name: next_due
-- The earliest instant at which claim finds something.
SELECT clock_timestamp(),
       (SELECT least(next_run_at, look_at) FROM schedule
         WHERE least(next_run_at, look_at) IS NOT NULL
         ORDER BY least(next_run_at, look_at) LIMIT 1);

-- name: stale
-- Schedules behind a task that were computed with other time zone data. Rows that are locked come
-- next time.
SELECT task_id FROM schedule
 WHERE task_id > %(after)s AND tzdata <> %(tzdata)s AND next_run_at IS NOT NULL
 ORDER BY task_id LIMIT %(limit)s
   FOR UPDATE SKIP LOCKED;

-- name: recomputed
-- Store what other time zone data makes of schedules.
UPDATE schedule AS s
   SET next_run_at = g.next_run_at, tzdata = %(tzdata)s
  FROM unnest(%(ids)s::uuid[], %(nexts)s::timestamptz[]) AS g (task_id, next_run_at)
 WHERE s.task_id = g.task_id AND s.task_id = ANY(%(ids)s::uuid[]);

-- name: hint
-- Wake the schedulers; once after a batch, because a NOTIFY makes commits queue up.
SELECT pg_notify('ordinaut_schedule', '');
