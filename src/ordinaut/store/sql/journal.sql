-- name: emit
-- Write facts into the outbox, in the order given, inside the caller's transaction.
INSERT INTO event (occurred_at, topic, task_id, run_id, subject, data)
SELECT coalesce(%(now)s, now()), topic, task_id, run_id, subject, data
  FROM unnest(%(topics)s::text[], %(task_ids)s::uuid[], %(run_ids)s::uuid[],
              %(subjects)s::text[], %(data)s::jsonb[])
       AS given (topic, task_id, run_id, subject, data);

-- name: read_events
-- One page of the outbox, newest first, for a person who asks what happened.
SELECT seq, occurred_at, topic, task_id, run_id, subject, data
  FROM event
 WHERE (%(before)s::bigint IS NULL OR seq < %(before)s)
   AND (%(topic)s::text IS NULL OR topic ~ %(topic)s)
   AND (%(subject)s::text IS NULL OR subject = %(subject)s)
   AND (%(task_id)s::uuid IS NULL OR task_id = %(task_id)s)
   AND (%(since)s::timestamptz IS NULL OR occurred_at >= %(since)s)
   AND (%(until)s::timestamptz IS NULL OR occurred_at < %(until)s)
 ORDER BY seq DESC
 LIMIT %(limit)s;
