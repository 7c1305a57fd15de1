-- name: watch
-- Poll for tasks from now on; a poll that is under way is not heard. Of another condition nothing
-- is known, but when the task fired last stays: the cool-down is the task's.
INSERT INTO probe AS p (task_id, every, patience, next_at)
SELECT task_id, every, patience, next_at
  FROM unnest(%(task_ids)s::uuid[], %(every)s::float8[], %(patience)s::interval[],
              %(nexts)s::timestamptz[]) AS given (task_id, every, patience, next_at)
    ON CONFLICT (task_id) DO UPDATE
   SET every = excluded.every, patience = excluded.patience, next_at = excluded.next_at,
       armed = p.armed OR %(anew)s,
       holds = CASE WHEN NOT %(anew)s THEN p.holds END,
       since = CASE WHEN NOT %(anew)s THEN p.since END,
       polled_at = CASE WHEN NOT %(anew)s THEN p.polled_at END,
       error = CASE WHEN NOT %(anew)s THEN p.error END,
       failing_since = CASE WHEN NOT %(anew)s THEN p.failing_since END,
       failures = CASE WHEN %(anew)s THEN 0 ELSE p.failures END,
       crashes = 0, lease_token = p.lease_token + 1, locked_by = NULL, locked_until = NULL;

-- name: forget
-- Poll no more for a task that has no condition any more.
DELETE FROM probe WHERE task_id = %(task_id)s;

-- name: wake
-- Poll again for a task that was resumed; disarmed, it fires only after it was false.
UPDATE probe
   SET next_at = %(next)s, armed = armed AND NOT %(disarm)s, lease_token = lease_token + 1,
       locked_by = NULL, locked_until = NULL
 WHERE task_id = %(task_id)s;

-- name: due_in
-- The seconds until claim finds something.
SELECT extract(epoch FROM greatest(next_at, locked_until) - clock_timestamp())::float8
  FROM probe
 WHERE next_at IS NOT NULL
 ORDER BY greatest(next_at, locked_until) LIMIT 1;

-- name: claim
-- Take polls that are due, or whose holder is gone, and let those of tasks rest that are not
-- active. A holder that is gone is counted: a probe that takes workers with it comes less and
-- less often, up to 64 times its patience apart.
WITH due AS (
    SELECT p.task_id, t.version, t.schedule_expr, t.starts_at, t.ends_at,
           t.status = 'active' AND t.deleted_at IS NULL AND t.schedule_kind = 'condition' AS active
      FROM probe AS p JOIN task AS t ON t.id = p.task_id
     WHERE p.next_at IS NOT NULL
       AND greatest(p.next_at, p.locked_until) <= coalesce(%(now)s, now())
     ORDER BY greatest(p.next_at, p.locked_until) LIMIT %(limit)s
       FOR UPDATE OF p SKIP LOCKED
)
UPDATE probe AS p
   SET next_at = CASE WHEN due.active THEN p.next_at END,
       crashes = least(p.crashes + (p.locked_by IS NOT NULL)::integer, 6),
       lease_token = p.lease_token + 1,
       locked_by = CASE WHEN due.active THEN %(worker_id)s::uuid END,
       locked_until = CASE WHEN due.active THEN coalesce(%(now)s, now()) + p.patience * power(
           2, least(p.crashes + (p.locked_by IS NOT NULL)::integer, 6)) END
  FROM due
 WHERE p.task_id = due.task_id
RETURNING p.task_id, due.version, p.lease_token, p.next_at, due.schedule_expr, due.ends_at,
          p.every, p.armed, p.holds, p.fired_at, p.failures;

-- name: settle
-- Keep what a poll that is still ours found. A poll that failed says nothing of the condition.
UPDATE probe
   SET next_at = %(next)s, polled_at = %(at)s, armed = %(armed)s,
       since = CASE WHEN %(holds)s::boolean IS NULL OR holds = %(holds)s THEN since
                    ELSE %(at)s END,
       holds = coalesce(%(holds)s, holds),
       fired_at = CASE WHEN %(fired)s THEN %(at)s ELSE fired_at END,
       error = %(error)s::text::jsonb,
       failures = CASE WHEN %(error)s::text IS NULL THEN 0 ELSE failures + 1 END,
       failing_since = CASE WHEN %(error)s::text IS NOT NULL
                            THEN coalesce(failing_since, %(at)s) END,
       crashes = 0, locked_by = NULL, locked_until = NULL
 WHERE task_id = %(task_id)s AND lease_token = %(token)s AND locked_by = %(worker_id)s
RETURNING task_id;

-- name: release
-- Give back what a worker that leaves has not ended.
UPDATE probe SET locked_by = NULL, locked_until = NULL WHERE locked_by = %(worker_id)s;

-- name: states
-- What is known of the conditions of tasks.
SELECT task_id, holds, since, polled_at, next_at, fired_at, failures, failing_since, error
  FROM probe
 WHERE task_id = ANY(%(task_ids)s::uuid[]);
