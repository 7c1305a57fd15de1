-- name: record
-- Keep the verdicts on occurrences that do not run; a snoozed one may get its final verdict.
INSERT INTO occurrence AS o (task_id, scheduled_for, verdict, reason, decided_at)
SELECT task_id, scheduled_for, verdict, reason, coalesce(%(now)s, now())
  FROM unnest(%(task_ids)s::uuid[], %(ats)s::timestamptz[], %(verdicts)s::text[],
              %(reasons)s::text[]) AS given (task_id, scheduled_for, verdict, reason)
    ON CONFLICT (task_id, scheduled_for) DO UPDATE
   SET verdict = excluded.verdict, reason = excluded.reason, decided_at = excluded.decided_at
 WHERE o.verdict = 'snoozed';
