-- name: publish
-- Write what somebody states, in the order given, and answer it with its places.
INSERT INTO event (topic, subject, data)
SELECT topic, subject, data
  FROM unnest(%(topics)s::text[], %(subjects)s::text[], %(data)s::jsonb[])
       AS given (topic, subject, data)
RETURNING seq, occurred_at, topic, task_id, run_id, subject, data;

-- name: page
-- Newest first. Who may not see everything sees the facts about own tasks and what was
-- published, but not what the core says about others.
SELECT seq, occurred_at, topic, task_id, run_id, subject, data
  FROM fact e
 WHERE (%(before)s::bigint IS NULL OR seq < %(before)s AND place < %(before)s + 1000)
   AND (%(topic)s::text IS NULL OR topic ~ %(topic)s)
   AND (%(subject)s::text IS NULL OR subject = %(subject)s)
   AND (%(task_id)s::uuid IS NULL OR task_id = %(task_id)s)
   AND (%(run_id)s::uuid IS NULL OR run_id = %(run_id)s)
   AND (%(since)s::timestamptz IS NULL OR occurred_at >= %(since)s)
   AND (%(until)s::timestamptz IS NULL OR occurred_at < %(until)s)
   AND (%(owner)s::uuid IS NULL
        OR EXISTS (SELECT FROM task t WHERE t.id = e.task_id AND t.created_by = %(owner)s)
        OR (e.topic LIKE 'webhook.%%' AND e.data ->> 'agent_id' = %(owner)s::text)
        OR (e.task_id IS NULL AND split_part(e.topic, '.', 1) <> ALL(%(reserved)s)))
 ORDER BY place DESC, seq DESC
 LIMIT %(limit)s;

-- name: topics
-- What was spoken of since an instant, how often, and when last.
SELECT topic, count(*), max(occurred_at)
  FROM fact e
 WHERE occurred_at >= %(since)s
   AND (%(owner)s::uuid IS NULL
        OR EXISTS (SELECT FROM task t WHERE t.id = e.task_id AND t.created_by = %(owner)s)
        OR (e.topic LIKE 'webhook.%%' AND e.data ->> 'agent_id' = %(owner)s::text)
        OR (e.task_id IS NULL AND split_part(e.topic, '.', 1) <> ALL(%(reserved)s)))
 GROUP BY topic
 ORDER BY topic
 LIMIT 1000;

-- name: owned
-- Whether a task belongs to an agent.
SELECT EXISTS (SELECT FROM task WHERE id = %(task_id)s AND created_by = %(owner)s);

-- name: listeners
-- Which topics tasks and webhooks listen for: how many tasks, and which webhooks.
SELECT split_part(btrim(schedule_expr, E' \t\r\n'), ' ', 1), count(*), '{}'::uuid[]
  FROM task
 WHERE schedule_kind IN ('event', 'condition')  -- as the index says
   AND schedule_kind = 'event'
   AND status = 'active' AND deleted_at IS NULL
   AND (%(tasks_of)s::uuid IS NULL OR created_by = %(tasks_of)s)
 GROUP BY 1
UNION ALL
SELECT topic, 0, array_agg(id)
  FROM webhook, unnest(topics) AS topic
 WHERE status = 'active'
   AND (%(webhooks_of)s::uuid IS NULL OR created_by = %(webhooks_of)s)
 GROUP BY 1;
