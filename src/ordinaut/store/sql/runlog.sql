-- name: write
-- Keep lines; those that are kept already, because an answer was lost, are left alone.
INSERT INTO run_log (run_id, seq, at, level, step_id, item, message, fields)
SELECT run_id, seq, at, level, step_id, item, message, fields::jsonb
  FROM unnest(%(run_ids)s::uuid[], %(seqs)s::bigint[], %(ats)s::timestamptz[], %(levels)s::text[],
              %(step_ids)s::text[], %(items)s::integer[], %(messages)s::text[],
              %(fields)s::text[])
       AS given (run_id, seq, at, level, step_id, item, message, fields)
    ON CONFLICT DO NOTHING;

-- name: progress
-- Keep how far runs have come that are still this worker's.
WITH told AS (
    UPDATE due_work AS w
       SET progress = given.progress::jsonb
      FROM unnest(%(ids)s::uuid[], %(tokens)s::integer[], %(progress)s::text[])
           AS given (id, token, progress)
     WHERE w.id = ANY(%(ids)s::uuid[]) AND w.id = given.id AND w.lease_token = given.token
       AND w.locked_by = %(worker_id)s
    RETURNING w.id, w.task_id, w.progress
)
INSERT INTO event (topic, task_id, run_id, data)
SELECT 'run.progress', task_id, id, progress FROM told;

-- name: page
-- The lines of a run behind a place, in their order.
SELECT seq, at, level, step_id, item, message, fields
  FROM run_log
 WHERE run_id = %(run_id)s
   AND seq > %(after)s
   AND level = ANY(%(levels)s)
   AND (%(step_id)s::text IS NULL OR step_id = %(step_id)s)
 ORDER BY seq
 LIMIT %(limit)s;
