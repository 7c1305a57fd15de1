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
-- Write down the answers to steps that wait, and wake their runs. Only the caller's hold makes
-- sure that a run still waits; one that goes on already finds the answer when it waits again.
WITH given AS (
    SELECT *
      FROM unnest(%(run_ids)s::uuid[], %(step_ids)s::text[], %(items)s::integer[],
                  %(statuses)s::text[], %(outputs)s::text[], %(errors)s::text[],
                  %(announce)s::boolean[])
           AS given (run_id, step_id, item, status, output, error, announce)
), answered AS (
    UPDATE step_run AS s
       SET status = given.status, finished_at = coalesce(%(now)s, now()),
           output = given.output::jsonb, error = given.error::jsonb
      FROM given
     WHERE s.run_id = given.run_id AND s.step_id = given.step_id AND s.item = given.item
       AND s.status = 'waiting'
    RETURNING s.run_id, s.step_id, s.item, s.attempt, given.announce
), woken AS (
    UPDATE due_work AS w
       SET state = 'ready', resumed = true, run_at = coalesce(%(now)s, now()),
           sort_key = (date_part('epoch', coalesce(%(now)s, now())) * 1000)::bigint
                      - w.priority * 60000
     WHERE w.id IN (SELECT run_id FROM answered) AND w.state = 'waiting'
    RETURNING w.id, w.task_id, w.scheduled_for
), noted AS (
    INSERT INTO event (occurred_at, topic, task_id, run_id, data)
    SELECT coalesce(%(now)s, now()), 'step.succeeded', w.task_id, w.id,
           jsonb_build_object('step_id', step_id, 'item', nullif(item, -1), 'attempt', a.attempt)
      FROM answered AS a JOIN due_work AS w ON w.id = a.run_id
     WHERE announce
    UNION ALL
    SELECT coalesce(%(now)s, now()), 'run.queued', task_id, id,
           jsonb_build_object('reason', %(reason)s::text, 'scheduled_for', scheduled_for)
      FROM woken
)
SELECT run_id, step_id, item FROM answered;
