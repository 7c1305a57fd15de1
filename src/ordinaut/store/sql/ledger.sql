-- name: record
-- Keep the verdicts on occurrences that do not run; a snoozed one may get its final verdict.
INSERT INTO occurrence AS o (task_id, scheduled_for, verdict, reason, decided_at)
SELECT task_id, scheduled_for, verdict, reason, coalesce(%(now)s, now())
  FROM unnest(%(task_ids)s::uuid[], %(ats)s::timestamptz[], %(verdicts)s::text[],
              %(reasons)s::text[]) AS given (task_id, scheduled_for, verdict, reason)
    ON CONFLICT (task_id, scheduled_for) DO UPDATE
   SET verdict = excluded.verdict, reason = excluded.reason, decided_at = excluded.decided_at
 WHERE o.verdict = 'snoozed';

-- name: occurrences
-- What became of the occurrences in a time, the latest first: runs, and verdicts on the others.
-- A run is never older than its occurrence, so its id bounds the search.
SELECT DISTINCT ON (scheduled_for)
       scheduled_for, verdict, reason, run_id, status, decided_at
  FROM (
    SELECT scheduled_for,
           CASE trigger WHEN 'backfill' THEN 'backfilled' ELSE 'started' END AS verdict,
           '' AS reason, id AS run_id, status, run_at AS decided_at
      FROM task_run
     WHERE task_id = %(task_id)s AND scheduled_for > %(after)s AND scheduled_for <= %(until)s
       AND id >= uuid7_floor(%(after)s)
    UNION ALL
    SELECT scheduled_for, CASE trigger WHEN 'backfill' THEN 'backfilled' ELSE 'started' END,
           '', id,
           CASE state WHEN 'leased' THEN 'running' WHEN 'waiting' THEN 'waiting' ELSE 'queued' END,
           run_at
      FROM due_work
     WHERE task_id = %(task_id)s AND scheduled_for > %(after)s AND scheduled_for <= %(until)s
    UNION ALL
    SELECT scheduled_for, verdict, reason, NULL, NULL, decided_at
      FROM occurrence
     WHERE task_id = %(task_id)s AND scheduled_for > %(after)s AND scheduled_for <= %(until)s
  ) AS found
 ORDER BY scheduled_for DESC, run_id DESC NULLS LAST
 LIMIT %(limit)s;

-- name: with_runs
-- Which of these occurrences have a run.
SELECT scheduled_for FROM due_work
 WHERE task_id = %(task_id)s AND scheduled_for = ANY(%(ats)s)
UNION
SELECT scheduled_for FROM task_run
 WHERE task_id = %(task_id)s AND scheduled_for = ANY(%(ats)s) AND id >= uuid7_floor(%(first)s);
