-- name: create
-- Store tasks with all that belongs to them in one statement: definition, schedule, event and
-- audit entry. One JSON parameter is cheaper to bind than forty, and a batch is no other case.
WITH given AS (
    SELECT item, t.*, s.*
      FROM jsonb_array_elements(%(tasks)s) AS item
     CROSS JOIN LATERAL jsonb_to_record(item) AS t (
        id uuid, title text, description text, payload jsonb, priority smallint,
        dedupe_key text, dedupe_window_seconds integer, max_retries integer,
        backoff_strategy text, backoff_seconds double precision, concurrency_key text,
        max_concurrency integer, rate_limit text, catchup text, catchup_window_seconds integer,
        overlap text, jitter_seconds integer, max_runs integer,
        timeout_seconds double precision, retention_days integer, event_window jsonb,
        labels jsonb, created_by uuid, created_at timestamptz, next_run_at timestamptz)
     CROSS JOIN LATERAL jsonb_to_record(item -> 'schedule') AS s (
        kind text, expr text, timezone text, anchor timestamptz, starts_at timestamptz,
        ends_at timestamptz, dst_gap text, dst_fold text, exclude text[], on_excluded text)
), stored AS (
    INSERT INTO task (
        id, title, description, schedule_kind, schedule_expr, timezone, anchor, starts_at,
        ends_at, max_runs, jitter_seconds, dst_gap, dst_fold, catchup, catchup_window_seconds,
        overlap, exclude, on_excluded, priority, dedupe_key, dedupe_window_seconds, max_retries,
        backoff_strategy, backoff_seconds, timeout_seconds, concurrency_key, max_concurrency,
        rate_limit, retention_days, event_window, labels, created_by, created_at, updated_at)
    SELECT id, title, description, kind, expr, timezone, anchor, starts_at,
           ends_at, max_runs, jitter_seconds, dst_gap, dst_fold, catchup, catchup_window_seconds,
           overlap, exclude, on_excluded, priority, dedupe_key, dedupe_window_seconds,
           max_retries, backoff_strategy, backoff_seconds, timeout_seconds, concurrency_key,
           max_concurrency, rate_limit, retention_days, event_window, labels, created_by,
           created_at, created_at
      FROM given
), defined AS (
    INSERT INTO task_definition (task_id, version, payload) SELECT id, 1, payload FROM given
), planned AS (
    INSERT INTO schedule (task_id, next_run_at, look_at, decided_until, tzdata)
    SELECT id, next_run_at,
           CASE WHEN next_run_at IS NOT NULL AND (exclude <> '{}' OR dst_gap = 'skip')
                THEN created_at END,
           created_at, %(tzdata)s
      FROM given
), told AS (
    INSERT INTO event (topic, task_id, data)
    SELECT 'task.created', id,
           jsonb_build_object('title', title, 'schedule_kind', kind,
                              'next_run_at', item -> 'next_run_at')
      FROM given
)
INSERT INTO audit_log (actor_id, actor, action, entity, entity_id, after, request_id, address)
SELECT %(actor_id)s, %(actor)s, 'task.create', 'task', id::text, item,
       %(request_id)s, %(address)s
  FROM given, (SELECT pg_current_xact_id() AS xid) AS began  -- as in audit.record
 WHERE began.xid IS NOT NULL;

-- name: count
-- How many tasks an agent has; there is no need to count beyond what it may have.
SELECT count(*)
  FROM (SELECT FROM task WHERE created_by = %(owner)s AND deleted_at IS NULL LIMIT %(limit)s) AS t;

-- name: lock_dedupe
-- Two equal POSTs at once make one task: the second waits until the first is committed.
SELECT pg_advisory_xact_lock(hashtextextended(%(owner)s::text || ' ' || %(dedupe_key)s, 1));

-- name: find_duplicate
-- Within the window any task that was not deleted counts; without one, any that is still alive.
SELECT id
  FROM task
 WHERE created_by = %(owner)s
   AND dedupe_key = %(dedupe_key)s
   AND deleted_at IS NULL
   AND CASE WHEN %(window)s = 0 THEN status IN ('active', 'paused')
            ELSE created_at > %(now)s - make_interval(secs => %(window)s) END
 ORDER BY created_at DESC
 LIMIT 1;

-- name: get
-- Tasks by id, each with its pipeline, its next occurrence and the run that ended last.
SELECT t.id, t.version, t.title, t.description, t.status,
       t.schedule_kind, t.schedule_expr, t.timezone, t.anchor, t.starts_at, t.ends_at,
       t.dst_gap, t.dst_fold, t.exclude, t.on_excluded,
       d.payload, t.created_by, t.created_at, t.updated_at, t.priority,
       t.dedupe_key, t.dedupe_window_seconds, t.max_retries, t.backoff_strategy,
       t.backoff_seconds, t.concurrency_key, t.max_concurrency, t.rate_limit, t.catchup,
       t.catchup_window_seconds, t.overlap, t.jitter_seconds, t.max_runs, t.timeout_seconds,
       t.retention_days, t.event_window, t.labels, s.next_run_at, s.fired,
       r.id, r.status, r.scheduled_for, r.started_at, r.finished_at
  FROM task t
  JOIN task_definition d ON d.task_id = t.id AND d.version = t.version
  JOIN schedule s ON s.task_id = t.id
  LEFT JOIN LATERAL (
        SELECT id, status, scheduled_for, started_at, finished_at
          FROM task_run
         WHERE task_id = t.id
         ORDER BY id DESC
         LIMIT 1) r ON true
 WHERE t.id = ANY(%(ids)s)
   AND t.deleted_at IS NULL
   AND (%(owner)s::uuid IS NULL OR t.created_by = %(owner)s)
 ORDER BY t.id DESC;

-- name: page
-- The newest ids that fit; the rest of the row is read only for those.
SELECT t.id
  FROM task t
 WHERE t.deleted_at IS NULL
   AND (%(owner)s::uuid IS NULL OR t.created_by = %(owner)s)
   AND (%(before)s::uuid IS NULL OR t.id < %(before)s)
   AND (%(ids)s::uuid[] IS NULL OR t.id = ANY(%(ids)s))
   AND (%(status)s::text IS NULL OR t.status = %(status)s)
   AND (%(schedule_kind)s::text IS NULL OR t.schedule_kind = %(schedule_kind)s)
   AND (%(labels)s::jsonb IS NULL OR t.labels @> %(labels)s)
   AND (%(text)s::text IS NULL
        OR t.title ILIKE %(text)s OR t.description ILIKE %(text)s)
 ORDER BY t.id DESC
 LIMIT %(limit)s;

-- name: lock_schedules
-- Before the tasks: the tick locks in this order too, and so nobody waits in a circle.
SELECT s.task_id
  FROM schedule s
  JOIN task t ON t.id = s.task_id
 WHERE s.task_id = ANY(%(ids)s)
   AND (%(owner)s::uuid IS NULL OR t.created_by = %(owner)s)
 ORDER BY s.task_id
   FOR UPDATE OF s;

-- name: lock
-- Take the right to change tasks; a second writer waits and then sees the first one's work.
SELECT id
  FROM task
 WHERE id = ANY(%(ids)s)
   AND deleted_at IS NULL
   AND (%(owner)s::uuid IS NULL OR created_by = %(owner)s)
 ORDER BY id
   FOR NO KEY UPDATE;

-- name: update
-- Every version has its definition, so that a run finds the one it started with.
WITH changed AS (
    UPDATE task
       SET version = version + 1, title = %(title)s, description = %(description)s,
           schedule_kind = %(schedule_kind)s, schedule_expr = %(schedule_expr)s,
           timezone = %(timezone)s, starts_at = %(starts_at)s, ends_at = %(ends_at)s,
           max_runs = %(max_runs)s, jitter_seconds = %(jitter_seconds)s,
           dst_gap = %(dst_gap)s, dst_fold = %(dst_fold)s, catchup = %(catchup)s,
           catchup_window_seconds = %(catchup_window_seconds)s, overlap = %(overlap)s,
           exclude = %(exclude)s, on_excluded = %(on_excluded)s, priority = %(priority)s,
           dedupe_key = %(dedupe_key)s, dedupe_window_seconds = %(dedupe_window_seconds)s,
           max_retries = %(max_retries)s, backoff_strategy = %(backoff_strategy)s,
           backoff_seconds = %(backoff_seconds)s, timeout_seconds = %(timeout_seconds)s,
           concurrency_key = %(concurrency_key)s, max_concurrency = %(max_concurrency)s,
           rate_limit = %(rate_limit)s, retention_days = %(retention_days)s,
           event_window = %(event_window)s,
           labels = %(labels)s, status = %(status)s,
           updated_at = %(now)s
     WHERE id = %(id)s
    RETURNING id, version
)
INSERT INTO task_definition (task_id, version, payload)
SELECT id, version, %(payload)s FROM changed;

-- name: set_status
-- The version stays: it counts definitions, so that a writer's ETag outlives a pause.
UPDATE task
   SET status = %(status)s, updated_at = %(now)s
 WHERE id = ANY(%(ids)s);

-- name: delete
UPDATE task
   SET status = 'canceled', updated_at = %(now)s, deleted_at = %(now)s
 WHERE id = ANY(%(ids)s);

-- name: silence
-- A task that is over does not fire again.
UPDATE schedule SET next_run_at = NULL, snoozed_for = NULL, snoozed_to = NULL
 WHERE task_id = ANY(%(ids)s);

-- name: definitions
-- What the runs of these versions of tasks have to do, and how.
SELECT d.task_id, d.version, d.payload, t.title, t.created_by, t.max_retries,
       t.backoff_strategy, t.backoff_seconds, t.timeout_seconds
  FROM unnest(%(task_ids)s::uuid[], %(versions)s::integer[]) AS wanted (task_id, version)
  JOIN task_definition AS d USING (task_id, version)
  JOIN task AS t ON t.id = d.task_id;
