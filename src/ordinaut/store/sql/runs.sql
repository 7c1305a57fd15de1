-- name: page
-- Newest first, over what has not ended (due_work) and what has (task_run): a run is in one of
-- the two, and one statement sees both at the same instant.
SELECT r.*, t.title
  FROM (
    (SELECT w.id, w.task_id, w.task_version,
            CASE w.state WHEN 'leased' THEN 'running' WHEN 'waiting' THEN 'waiting'
                         ELSE 'queued' END AS status,
            w.trigger, w.attempt, w.scheduled_for, w.run_at, w.started_at,
            NULL::timestamptz AS finished_at, w.locked_by AS worker_id, w.payload,
            NULL::jsonb AS output, w.error, w.wait, w.cancel_requested, w.progress
       FROM due_work w
      WHERE (%(before)s::uuid IS NULL OR w.id < %(before)s)
        AND (%(task_id)s::uuid IS NULL OR w.task_id = %(task_id)s)
        AND (%(states)s::text[] IS NULL OR w.state = ANY(%(states)s))
        AND (%(trigger)s::text IS NULL OR w.trigger = %(trigger)s)
        AND (%(owner)s::uuid IS NULL OR EXISTS (
                SELECT FROM task o WHERE o.id = w.task_id AND o.created_by = %(owner)s))
      ORDER BY w.id DESC
      LIMIT %(limit)s)
    UNION ALL
    (SELECT h.id, h.task_id, h.task_version, h.status, h.trigger, h.attempt, h.scheduled_for,
            h.run_at, h.started_at, h.finished_at, h.worker_id, h.payload, h.output, h.error,
            NULL::jsonb, false, NULL::jsonb
       FROM task_run h
      WHERE (%(before)s::uuid IS NULL OR h.id < %(before)s)
        AND (%(task_id)s::uuid IS NULL OR h.task_id = %(task_id)s)
        AND (%(statuses)s::text[] IS NULL OR h.status = ANY(%(statuses)s))
        AND (%(trigger)s::text IS NULL OR h.trigger = %(trigger)s)
        AND (%(owner)s::uuid IS NULL OR EXISTS (
                SELECT FROM task o WHERE o.id = h.task_id AND o.created_by = %(owner)s))
      ORDER BY h.id DESC
      LIMIT %(limit)s)
  ) r
  JOIN task t ON t.id = r.task_id
 ORDER BY r.id DESC
 LIMIT %(limit)s;

-- name: get
-- One run, wherever it is. A deleted task keeps its runs.
SELECT r.*, t.title
  FROM (
    SELECT w.id, w.task_id, w.task_version,
           CASE w.state WHEN 'leased' THEN 'running' WHEN 'waiting' THEN 'waiting'
                        ELSE 'queued' END AS status,
           w.trigger, w.attempt, w.scheduled_for, w.run_at, w.started_at,
           NULL::timestamptz AS finished_at, w.locked_by AS worker_id, w.payload,
           NULL::jsonb AS output, w.error, w.wait, w.cancel_requested, w.progress
      FROM due_work w
     WHERE w.id = %(id)s
    UNION ALL
    SELECT h.id, h.task_id, h.task_version, h.status, h.trigger, h.attempt, h.scheduled_for,
           h.run_at, h.started_at, h.finished_at, h.worker_id, h.payload, h.output, h.error,
           NULL::jsonb, false, NULL::jsonb
      FROM task_run h
     WHERE h.id = %(id)s
  ) r
  JOIN task t ON t.id = r.task_id
 WHERE %(owner)s::uuid IS NULL OR t.created_by = %(owner)s;

-- name: steps
-- The checkpoints of a run in the order in which they began.
SELECT step_id, status, attempt, started_at, finished_at, uses, item, output, error
  FROM step_run
 WHERE run_id = %(id)s
 ORDER BY started_at, step_id, item;

-- name: ended
-- What ended since an instant, by status; lateness is from the time asked for to the start.
SELECT h.status, count(*),
       percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (
           ORDER BY date_part('epoch', h.finished_at - h.started_at)),
       percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (
           ORDER BY greatest(date_part('epoch', h.started_at - h.run_at), 0))
  FROM task_run h
 WHERE h.id >= uuid7_floor(%(since)s)
   AND (%(task_id)s::uuid IS NULL OR h.task_id = %(task_id)s)
   AND (%(owner)s::uuid IS NULL OR EXISTS (
           SELECT FROM task o WHERE o.id = h.task_id AND o.created_by = %(owner)s))
 GROUP BY GROUPING SETS ((h.status), ());

-- name: live
-- What has not ended, by status.
SELECT CASE w.state WHEN 'leased' THEN 'running' WHEN 'waiting' THEN 'waiting'
                    ELSE 'queued' END,
       count(*)
  FROM due_work w
 WHERE (%(task_id)s::uuid IS NULL OR w.task_id = %(task_id)s)
   AND (%(owner)s::uuid IS NULL OR EXISTS (
           SELECT FROM task o WHERE o.id = w.task_id AND o.created_by = %(owner)s))
 GROUP BY 1;
