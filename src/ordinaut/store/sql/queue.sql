-- name: enqueue
-- Create runs; an occurrence that is already queued is left alone.
WITH made AS (
    INSERT INTO due_work (id, task_id, task_version, scheduled_for, run_at, sort_key, priority,
                          state, trigger, created_by, concurrency_key, max_concurrency,
                          rate_runs, rate_seconds, payload)
    SELECT id, task_id, task_version, scheduled_for, run_at,
           (date_part('epoch', run_at) * 1000)::bigint - priority * 60000, priority,
           CASE WHEN run_at <= coalesce(%(now)s, now()) THEN 'ready' ELSE 'scheduled' END,
           trigger, created_by, concurrency_key, max_concurrency, rate_runs, rate_seconds,
           payload::jsonb
      FROM unnest(%(ids)s::uuid[], %(task_ids)s::uuid[], %(versions)s::integer[],
                  %(scheduled_fors)s::timestamptz[], %(run_ats)s::timestamptz[],
                  %(priorities)s::smallint[], %(triggers)s::text[], %(payloads)s::text[],
                  %(owners)s::uuid[], %(keys)s::text[], %(maxima)s::integer[],
                  %(rate_runs)s::integer[], %(rate_seconds)s::integer[])
           AS given (id, task_id, task_version, scheduled_for, run_at, priority, trigger,
                     payload, created_by, concurrency_key, max_concurrency, rate_runs,
                     rate_seconds)
    ON CONFLICT (task_id, scheduled_for) DO NOTHING
    RETURNING id, task_id, scheduled_for, run_at, trigger
), noted AS (
    INSERT INTO event (occurred_at, topic, task_id, run_id, data)
    SELECT coalesce(%(now)s, now()), 'run.queued', task_id, id,
           jsonb_build_object('trigger', trigger, 'run_at', run_at,
                              'scheduled_for', scheduled_for)
      FROM made
)
SELECT id, CASE WHEN %(wake)s THEN pg_notify('ordinaut_work', '') END FROM made;

-- name: promote
-- Make ready what was scheduled for, or waits until, a time that has come.
WITH come AS (
    UPDATE due_work
       SET state = 'ready', resumed = resumed OR state = 'waiting'
     WHERE ctid = ANY(ARRAY(
           SELECT ctid FROM due_work
            WHERE state IN ('scheduled', 'waiting') AND run_at <= coalesce(%(now)s, now())
            ORDER BY run_at LIMIT %(limit)s
              FOR UPDATE SKIP LOCKED))
    RETURNING id, task_id, scheduled_for, wait
), noted AS (
    INSERT INTO event (occurred_at, topic, task_id, run_id, data)
    SELECT coalesce(%(now)s, now()), 'run.queued', task_id, id,
           jsonb_build_object('reason', 'wait_over',
                              'scheduled_for', scheduled_for)
      FROM come WHERE wait IS NOT NULL
)
SELECT count(*) FROM come;

-- name: next_wake
-- The earliest instant at which promote finds something.
SELECT run_at FROM due_work
 WHERE state IN ('scheduled', 'waiting') AND run_at < '9999-01-01 UTC'
 ORDER BY run_at LIMIT 1;

-- name: gate
-- Whether there is work with a concurrency key (else null), and we alone may lease such work
-- until this transaction ends.
SELECT CASE WHEN EXISTS (SELECT FROM due_work
                          WHERE state = 'ready' AND concurrency_key IS NOT NULL)
            THEN pg_try_advisory_xact_lock(%(lock)s) END;

-- part: agents
-- Who has ready work without a concurrency key, from the one on whose turn it is.
    (SELECT created_by, 1 AS place
       FROM ((SELECT created_by FROM due_work
               WHERE state = 'ready' AND concurrency_key IS NULL AND created_by >= %(turn)s
               ORDER BY created_by, sort_key, id LIMIT 1)
             UNION ALL
             (SELECT created_by FROM due_work
               WHERE state = 'ready' AND concurrency_key IS NULL
               ORDER BY created_by, sort_key, id LIMIT 1)) AS first
      LIMIT 1)
    UNION ALL
    SELECT following.created_by, agent.place + 1
      FROM agent CROSS JOIN LATERAL (
           SELECT created_by FROM due_work
            WHERE state = 'ready' AND concurrency_key IS NULL AND created_by > agent.created_by
            ORDER BY created_by, sort_key, id LIMIT 1) AS following
     WHERE agent.place <= %(limit)s

-- part: leasing
       SET state = 'leased', locked_by = %(worker_id)s,
           locked_until = coalesce(%(now)s, now()) + %(lease_for)s,
           lease_token = lease_token + 1, attempt = attempt + 1,
           started_at = CASE WHEN crashes = 0 THEN coalesce(%(now)s, now()) END

-- part: counting
    INSERT INTO rated_start (concurrency_key, until, runs)
    SELECT concurrency_key, coalesce(%(now)s, now()) + make_interval(secs => rate_seconds), count(*)
      FROM leased WHERE rate_seconds IS NOT NULL
     GROUP BY concurrency_key, rate_seconds

-- part: answered
              sort_key, created_by, id, lease_token, task_id, task_version, attempt, run_at,
              scheduled_for, trigger, payload, resumed, crashes

-- name: lease
-- Take the most urgent work that has no concurrency key, an equal share for each agent from the
-- one whose turn it is, and tell whether there is some that has.
WITH RECURSIVE agent AS (
    -- include: agents
), leased AS (
    UPDATE due_work
    -- include: leasing
     WHERE ctid = ANY(ARRAY(
           SELECT share.place
             FROM agent CROSS JOIN LATERAL (
                  SELECT ctid AS place FROM due_work
                   WHERE state = 'ready' AND concurrency_key IS NULL
                     AND created_by = agent.created_by
                   ORDER BY sort_key, id
                   LIMIT (SELECT ceil(%(limit)s::float8 / least(count(*), %(limit)s)) FROM agent)
                     FOR UPDATE SKIP LOCKED) AS share
            LIMIT %(limit)s))
    RETURNING
    -- include: answered
)
SELECT other.*, leased.*
  FROM (SELECT EXISTS (SELECT FROM due_work WHERE state = 'ready' AND concurrency_key IS NOT NULL),
               (SELECT count(*) > 1 FROM agent), NULL::text) AS other
  LEFT JOIN leased ON true;

-- name: lease_beyond
-- Take what lease would take of some agents from a place in the order on. While an old transaction
-- keeps dead rows from being removed, those that were leased since lie before that place, and a
-- scan from the start visits each of them.
WITH leased AS (
    UPDATE due_work
    -- include: leasing
     WHERE ctid = ANY(ARRAY(
           SELECT share.place
             FROM unnest(%(agents)s::uuid[]) AS agent (created_by) CROSS JOIN LATERAL (
                  SELECT ctid AS place FROM due_work
                   WHERE state = 'ready' AND concurrency_key IS NULL
                     AND created_by = agent.created_by AND sort_key >= %(place)s
                   ORDER BY sort_key, id
                   LIMIT ceil(%(limit)s::float8 / cardinality(%(agents)s::uuid[]))
                     FOR UPDATE SKIP LOCKED) AS share
            LIMIT %(limit)s))
    RETURNING
    -- include: answered
)
SELECT other.*, leased.*
  FROM (SELECT false, false, NULL::text) AS other
  LEFT JOIN leased ON true;

-- name: lease_urgent
-- Take the most urgent work, with and without a concurrency key, as lease does: as long as no key
-- is in the way. When one has no room for all its runs among those, nothing is taken, the answer
-- begins with false, and lease_keyed has to choose. The caller holds the gate, and this
-- statement's snapshot is younger than the gate: nobody else counts now.
WITH RECURSIVE agent AS (
    (SELECT created_by, 1 AS place
       FROM ((SELECT created_by FROM due_work
               WHERE state = 'ready' AND concurrency_key IS NULL AND created_by >= %(turn)s
               ORDER BY created_by, sort_key, id LIMIT 1)
             UNION ALL
             (SELECT created_by FROM due_work
               WHERE state = 'ready' AND concurrency_key IS NOT NULL AND created_by >= %(turn)s
               ORDER BY created_by, sort_key, id LIMIT 1)
             UNION ALL
             (SELECT created_by FROM due_work
               WHERE state = 'ready' AND concurrency_key IS NULL AND created_by < %(turn)s
               ORDER BY created_by, sort_key, id LIMIT 1)
             UNION ALL
             (SELECT created_by FROM due_work
               WHERE state = 'ready' AND concurrency_key IS NOT NULL AND created_by < %(turn)s
               ORDER BY created_by, sort_key, id LIMIT 1)) AS first
      ORDER BY created_by < %(turn)s, created_by LIMIT 1)
    UNION ALL
    SELECT following.created_by, agent.place + 1
      FROM agent CROSS JOIN LATERAL (
           SELECT created_by
             FROM ((SELECT created_by FROM due_work
                     WHERE state = 'ready' AND concurrency_key IS NULL
                       AND created_by > agent.created_by
                     ORDER BY created_by, sort_key, id LIMIT 1)
                   UNION ALL
                   (SELECT created_by FROM due_work
                     WHERE state = 'ready' AND concurrency_key IS NOT NULL
                       AND created_by > agent.created_by
                     ORDER BY created_by, sort_key, id LIMIT 1)) AS either
            ORDER BY created_by LIMIT 1) AS following
     WHERE agent.place <= %(limit)s
), share AS (
    SELECT ceil(%(limit)s::float8 / least(greatest(count(*), 1), %(limit)s)) AS runs FROM agent
), urgent AS MATERIALIZED (
    SELECT one.*
      FROM agent CROSS JOIN LATERAL (
           SELECT place, key, max_concurrency, rate_runs
             FROM (SELECT free.*
                     FROM (SELECT ctid AS place, sort_key, id, NULL AS key,
                                  NULL::integer AS max_concurrency, NULL::integer AS rate_runs
                             FROM due_work
                            WHERE state = 'ready' AND concurrency_key IS NULL
                              AND created_by = agent.created_by
                            ORDER BY sort_key, id LIMIT (SELECT runs FROM share)
                              FOR UPDATE SKIP LOCKED) AS free
                    UNION ALL
                   (SELECT ctid, sort_key, id, concurrency_key, max_concurrency, rate_runs
                      FROM due_work
                     WHERE state = 'ready' AND concurrency_key IS NOT NULL
                       AND created_by = agent.created_by
                     ORDER BY sort_key, id LIMIT (SELECT runs FROM share))) AS either
            ORDER BY sort_key, id LIMIT (SELECT runs FROM share)) AS one
     LIMIT %(limit)s
), lane AS (
    SELECT key, count(*) AS runs, count(max_concurrency) AS starts,
           min(max_concurrency) AS most, min(rate_runs) AS rate
      FROM (SELECT key, max_concurrency, rate_runs FROM urgent WHERE key IS NOT NULL
             UNION ALL
            SELECT concurrency_key, NULL, NULL FROM due_work
             WHERE state = 'leased' AND concurrency_key IS NOT NULL) AS run
     GROUP BY key
), possible AS MATERIALIZED (
    SELECT NOT EXISTS (
           SELECT FROM lane
            WHERE runs > most
               OR starts + (SELECT coalesce(sum(rated_start.runs), 0)
                              FROM rated_start
                             WHERE rate IS NOT NULL AND concurrency_key = key
                               AND until > coalesce(%(now)s, now())) > rate) AS yes
), leased AS (
    UPDATE due_work
    -- include: leasing
     WHERE ctid = ANY(ARRAY(
           SELECT ctid FROM due_work
            WHERE state = 'ready' AND ctid = ANY(ARRAY(
                  SELECT place FROM urgent WHERE (SELECT yes FROM possible)))
              FOR UPDATE SKIP LOCKED))
    RETURNING *
), answered AS (
    SELECT
    -- include: answered
      FROM leased
), counted AS (
    -- include: counting
)
SELECT other.*, answered.*
  FROM (SELECT (SELECT yes FROM possible), (SELECT count(*) > 1 FROM agent), NULL::text) AS other
  LEFT JOIN answered ON true;

-- name: lease_keyed
-- Take the most urgent work as lease does, and of a concurrency key at most what is free of it.
-- The gate is held as for lease_urgent. Of each key only so many rows are read that the keys
-- together are more than enough; what may come behind a row that was not read waits for the next
-- time. So do keys beyond a few hundred, which begins where this one ends.
WITH RECURSIVE agent AS (
    -- include: agents
), head AS (
    (SELECT key, max_concurrency, rate_runs, 1 AS place
       FROM ((SELECT concurrency_key AS key, max_concurrency, rate_runs FROM due_work
               WHERE state = 'ready' AND concurrency_key > %(key)s
               ORDER BY concurrency_key, sort_key, id LIMIT 1)
             UNION ALL
             (SELECT concurrency_key, max_concurrency, rate_runs FROM due_work
               WHERE state = 'ready' AND concurrency_key IS NOT NULL
               ORDER BY concurrency_key, sort_key, id LIMIT 1)) AS first
      LIMIT 1)
    UNION ALL
    SELECT following.*, head.place + 1
      FROM head CROSS JOIN LATERAL (
           SELECT concurrency_key AS key, max_concurrency, rate_runs
             FROM due_work
            WHERE state = 'ready' AND concurrency_key > head.key
            ORDER BY concurrency_key, sort_key, id LIMIT 1) AS following
     WHERE head.place < greatest(%(limit)s, 256)
), busy AS (
    SELECT concurrency_key AS key, count(*) AS runs
      FROM due_work
     WHERE state = 'leased' AND concurrency_key IS NOT NULL
     GROUP BY concurrency_key
), first AS MATERIALIZED (
    SELECT one.*, one.nth = bound.rows AND bound.rows < allowed.runs AS is_last
      FROM head LEFT JOIN busy USING (key)
      LEFT JOIN LATERAL (
           SELECT coalesce(sum(runs), 0) AS runs
             FROM rated_start
            WHERE head.rate_runs IS NOT NULL AND concurrency_key = head.key
              AND until > coalesce(%(now)s, now())) AS started ON true
     CROSS JOIN LATERAL (
           SELECT greatest(0, least(%(limit)s, head.max_concurrency - coalesce(busy.runs, 0),
                                    head.rate_runs - started.runs)) AS runs) AS allowed
     CROSS JOIN (SELECT greatest(4, 2 * %(limit)s / count(*)) AS rows FROM head) AS bound
     CROSS JOIN LATERAL (
           SELECT ctid AS place, created_by, sort_key, id,
                  row_number() OVER (ORDER BY sort_key, id) AS nth
             FROM due_work
            WHERE state = 'ready' AND concurrency_key = head.key
            ORDER BY sort_key, id LIMIT least(allowed.runs, bound.rows)) AS one
), known AS (
    SELECT created_by, min(sort_key) AS until FROM first WHERE is_last GROUP BY created_by
), free AS MATERIALIZED (
    SELECT share.*
      FROM agent CROSS JOIN LATERAL (
           SELECT ctid AS place, created_by, sort_key, id
             FROM due_work
            WHERE state = 'ready' AND concurrency_key IS NULL AND created_by = agent.created_by
            ORDER BY sort_key, id
            LIMIT (SELECT ceil(%(limit)s::float8 / least(count(*), %(limit)s)) FROM agent)
              FOR UPDATE SKIP LOCKED) AS share
     LIMIT %(limit)s
), candidate AS (
    SELECT place, created_by,
           row_number() OVER (PARTITION BY created_by ORDER BY sort_key, id) AS rank
      FROM (SELECT place, created_by, sort_key, id FROM first
             UNION ALL
            SELECT place, created_by, sort_key, id FROM free) AS found
      LEFT JOIN known USING (created_by)
     WHERE sort_key <= coalesce(known.until, sort_key)
), chosen AS (
    SELECT place FROM candidate
     ORDER BY rank, created_by < %(turn)s, created_by LIMIT %(limit)s
), leased AS (
    UPDATE due_work
    -- include: leasing
     WHERE ctid = ANY(ARRAY(
           SELECT ctid FROM due_work
            WHERE ctid = ANY(ARRAY(SELECT place FROM chosen)) AND state = 'ready'
              FOR UPDATE SKIP LOCKED))
    RETURNING *
), answered AS (
    SELECT
    -- include: answered
      FROM leased
), counted AS (
    -- include: counting
)
SELECT other.*, answered.*
  FROM (SELECT true,
               EXISTS (SELECT FROM known)
               OR (SELECT count(*) > 1 FROM (SELECT created_by FROM agent
                                             UNION SELECT created_by FROM candidate) AS owner),
               (SELECT max(key) FROM head HAVING count(*) >= greatest(%(limit)s, 256))) AS other
  LEFT JOIN answered ON true;

-- The statements below are given ids in rows, and name them once more as an array. When vacuum has
-- found the queue empty, the planner believes that it stays so, and that to read all of it costs
-- nothing; an array is looked up in the index in any case (docs/decisions/0013-ids-named-twice.md).

-- name: renew
-- Extend the leases that are still this worker's, and tell which runs shall stop. What is locked
-- is being settled or canceled: it is told of and left alone, for the settlement of many runs and
-- this would wait for each other.
WITH held AS MATERIALIZED (
    SELECT id, token FROM unnest(%(ids)s::uuid[], %(tokens)s::integer[]) AS given (id, token)
), free AS MATERIALIZED (
    SELECT w.ctid AS place
      FROM held JOIN due_work AS w ON w.id = held.id
     WHERE w.id = ANY(%(ids)s::uuid[]) AND w.lease_token = held.token
       AND w.locked_by = %(worker_id)s
       FOR UPDATE OF w SKIP LOCKED
), renewed AS (
    UPDATE due_work
       SET locked_until = coalesce(%(now)s, now()) + %(lease_for)s
     WHERE ctid = ANY(ARRAY(SELECT place FROM free))
)
SELECT w.id, w.cancel_requested
  FROM held JOIN due_work AS w ON w.id = held.id
 WHERE w.id = ANY(%(ids)s::uuid[]) AND w.lease_token = held.token
   AND w.locked_by = %(worker_id)s;

-- name: reclaim
-- Find what this worker holds without knowing it: the answer to its lease was lost.
SELECT id, lease_token
  FROM due_work
 WHERE state = 'leased' AND locked_by = %(worker_id)s AND id <> ALL(%(known)s::uuid[]);

-- name: release
-- Give work back at once; the attempt that did not happen is not spent.
WITH back AS (
    UPDATE due_work AS w
       SET state = 'ready', locked_by = NULL, locked_until = NULL, attempt = attempt - 1,
           resumed = resumed OR held.started
      FROM unnest(%(ids)s::uuid[], %(tokens)s::integer[], %(started)s::boolean[])
           AS held (id, token, started)
     WHERE w.id = ANY(%(ids)s::uuid[]) AND w.id = held.id AND w.lease_token = held.token
       AND w.locked_by = %(worker_id)s
    RETURNING w.id, w.task_id, w.scheduled_for, w.cancel_requested, held.started
), noted AS (
    INSERT INTO event (occurred_at, topic, task_id, run_id, data)
    SELECT coalesce(%(now)s, now()), 'run.queued', task_id, id,
           jsonb_build_object('reason', 'released',
                              'scheduled_for', scheduled_for)
      FROM back WHERE started
)
SELECT id, cancel_requested FROM back;

-- name: settle
-- End runs that are still ours: out of the queue, into the history, with steps and events.
-- What has no checkpoint yet can not conflict with one, and is inserted without asking. What a
-- run has to say goes into one row of the outbox while there is room below its place. The
-- answer is empty when all were ours, else those that were.
WITH ended AS (
    DELETE FROM due_work AS w
     USING ROWS FROM (
           unnest(%(ids)s::uuid[], %(tokens)s::integer[], %(statuses)s::text[],
                  %(started_ats)s::float8[], %(finished_ats)s::float8[], %(outputs)s::text[],
                  %(errors)s::text[]),
           jsonb_array_elements(%(earlier)s::jsonb))
           AS given (id, token, status, started_at, finished_at, output, error, earlier)
     WHERE w.id = ANY(%(ids)s::uuid[]) AND w.id = given.id AND w.lease_token = given.token
       AND w.locked_by = %(worker_id)s
    RETURNING w.id, w.task_id, w.task_version, w.scheduled_for, w.run_at, w.trigger, w.attempt,
              w.lease_token, w.payload, given.status, to_timestamp(given.started_at) AS started_at,
              to_timestamp(given.finished_at) AS finished_at, given.output::jsonb,
              given.error::jsonb, given.earlier
), steps AS (
    SELECT fresh, run_id, step_id, item, status, attempt, uses,
           to_timestamp(started_at) AS started_at, to_timestamp(finished_at) AS finished_at,
           output::jsonb, error::jsonb
      FROM unnest(%(step_fresh)s::boolean[], %(step_runs)s::uuid[], %(step_ids)s::text[],
                  %(step_items)s::integer[], %(step_statuses)s::text[],
                  %(step_attempts)s::integer[], %(step_uses)s::text[],
                  %(step_started_ats)s::float8[], %(step_finished_ats)s::float8[],
                  %(step_outputs)s::text[], %(step_errors)s::text[])
           AS given (fresh, run_id, step_id, item, status, attempt, uses, started_at,
                     finished_at, output, error)
     -- not a join: the condition keeps it a hashed subplan
     WHERE (run_id IN (SELECT id FROM ended)) IS TRUE
), recorded AS (
    INSERT INTO task_run (id, task_id, task_version, scheduled_for, run_at, started_at,
                          finished_at, status, trigger, attempt, lease_token, worker_id, payload,
                          output, error)
    SELECT id, task_id, task_version, scheduled_for, run_at, started_at, finished_at, status,
           trigger, attempt, lease_token, %(worker_id)s, payload, output, error
      FROM ended
), first_checkpointed AS (
    INSERT INTO step_run (run_id, step_id, item, status, attempt, uses, started_at, finished_at,
                          output, error)
    SELECT run_id, step_id, item, status, attempt, uses, started_at, finished_at, output, error
      FROM steps WHERE fresh
), checkpointed AS (
    INSERT INTO step_run (run_id, step_id, item, status, attempt, uses, started_at, finished_at,
                          output, error)
    SELECT run_id, step_id, item, status, attempt, uses, started_at, finished_at, output, error
      FROM steps WHERE NOT fresh
    ON CONFLICT (run_id, step_id, item) DO UPDATE
       SET status = excluded.status, attempt = excluded.attempt, uses = excluded.uses,
           started_at = excluded.started_at, finished_at = excluded.finished_at,
           output = excluded.output, error = excluded.error
), noted AS (
    INSERT INTO event (topic, task_id, run_id, data, earlier)
    SELECT one ->> 0, task_id, id, one -> 1, NULL
      FROM ended CROSS JOIN LATERAL jsonb_array_elements(earlier) AS one
     WHERE jsonb_array_length(earlier) >= 1000
    UNION ALL
    SELECT 'run.' || status, task_id, id,
           CASE WHEN error IS NULL
                THEN jsonb_build_object('attempt', attempt, 'scheduled_for', scheduled_for)
                ELSE jsonb_build_object('attempt', attempt, 'scheduled_for', scheduled_for,
                                        'error', error) END,
           CASE WHEN jsonb_array_length(earlier) BETWEEN 1 AND 999 THEN earlier END
      FROM ended
)
SELECT coalesce(array_agg(id), '{}') FROM ended
HAVING count(*) < cardinality(%(ids)s::uuid[]);

-- name: park
-- Put runs that are still ours back: to be tried again at run_at, or waiting. What has no end
-- gets an instant that never comes; not infinity, which datetime can not hold.
WITH parked AS (
    UPDATE due_work AS w
       SET state = CASE WHEN given.wait IS NULL THEN 'scheduled' ELSE 'waiting' END,
           run_at = coalesce(given.run_at, '9999-01-01 UTC'),
           sort_key = (date_part('epoch', coalesce(given.run_at, '9999-01-01 UTC')) * 1000)::bigint
                      - w.priority * 60000,
           locked_by = NULL, locked_until = NULL, resumed = true,
           attempt = w.attempt - (given.wait IS NOT NULL)::integer,
           wait = given.wait::jsonb, error = given.error::jsonb,
           hears = CASE WHEN given.wait::jsonb @? '$[*] ? (@.kind != "until")' THEN '{}'::text[] END
      FROM unnest(
           %(ids)s::uuid[], %(tokens)s::integer[], %(announce)s::boolean[],
           %(run_ats)s::timestamptz[], %(waits)s::text[], %(errors)s::text[], %(steps)s::text[])
           AS given (id, token, announce, run_at, wait, error, steps)
     WHERE w.id = ANY(%(ids)s::uuid[]) AND w.id = given.id AND w.lease_token = given.token
       AND w.locked_by = %(worker_id)s
    RETURNING w.id, w.task_id, w.run_at, w.wait, w.error,
              w.cancel_requested, given.announce, false AS fresh, given.steps::jsonb,
              jsonb_build_object('attempt', w.attempt, 'scheduled_for', w.scheduled_for) AS facts
), steps AS (
    SELECT run.id AS run_id, run.task_id, run.fresh, one ->> 0 AS step_id,
           (one -> 1)::integer AS item, one ->> 2 AS status, (one -> 3)::integer AS attempt,
           one ->> 4 AS uses, to_timestamp((one ->> 5)::float8) AS started_at,
           to_timestamp((one ->> 6)::float8) AS finished_at,
           (one ->> 7)::jsonb AS output, (one ->> 8)::jsonb AS error
      FROM parked AS run CROSS JOIN LATERAL jsonb_array_elements(run.steps) AS one
), checkpointed AS (
    INSERT INTO step_run (run_id, step_id, item, status, attempt, uses, started_at, finished_at,
                          output, error)
    SELECT run_id, step_id, item, status, attempt, uses, started_at, finished_at, output, error
      FROM steps
    ON CONFLICT (run_id, step_id, item) DO UPDATE
       SET status = excluded.status, attempt = excluded.attempt, uses = excluded.uses,
           started_at = excluded.started_at, finished_at = excluded.finished_at,
           output = excluded.output, error = excluded.error
), noted AS (
    INSERT INTO event (topic, task_id, run_id, data)
    SELECT 'run.started', task_id, id, facts FROM parked WHERE announce
    UNION ALL
    SELECT 'step.' || status, task_id, run_id,
           CASE WHEN item < 0 AND error IS NULL
                THEN jsonb_build_object('step_id', step_id, 'attempt', attempt)
                ELSE jsonb_strip_nulls(jsonb_build_object(
                    'step_id', step_id, 'attempt', attempt, 'item', nullif(item, -1),
                    'error', error)) END
      FROM steps
     WHERE status IN ('succeeded', 'failed', 'skipped')
    UNION ALL
    SELECT CASE WHEN wait IS NULL THEN 'run.retrying' ELSE 'run.waiting' END, task_id, id,
           facts || jsonb_build_object('run_at', run_at, 'error', error) FROM parked
)
SELECT id, cancel_requested FROM parked;

-- name: checkpoint
-- Keep steps of runs that are still ours, and tell which runs those are. That touches the row,
-- so nobody can take the run between the check and the commit.
WITH held AS (
    UPDATE due_work AS w
       SET started_at = coalesce(w.started_at, now())
      FROM unnest(%(ids)s::uuid[], %(tokens)s::integer[], %(announce)s::boolean[],
                  %(steps)s::text[]) AS given (id, token, announce, steps)
     WHERE w.id = ANY(%(ids)s::uuid[]) AND w.id = given.id AND w.lease_token = given.token
       AND w.locked_by = %(worker_id)s
    RETURNING w.id, w.task_id, given.announce, false AS fresh, given.steps::jsonb,
              jsonb_build_object('attempt', w.attempt, 'scheduled_for', w.scheduled_for) AS facts
), steps AS (
    SELECT run.id AS run_id, run.task_id, run.fresh, one ->> 0 AS step_id,
           (one -> 1)::integer AS item, one ->> 2 AS status, (one -> 3)::integer AS attempt,
           one ->> 4 AS uses, to_timestamp((one ->> 5)::float8) AS started_at,
           to_timestamp((one ->> 6)::float8) AS finished_at,
           (one ->> 7)::jsonb AS output, (one ->> 8)::jsonb AS error
      FROM held AS run CROSS JOIN LATERAL jsonb_array_elements(run.steps) AS one
), checkpointed AS (
    INSERT INTO step_run (run_id, step_id, item, status, attempt, uses, started_at, finished_at,
                          output, error)
    SELECT run_id, step_id, item, status, attempt, uses, started_at, finished_at, output, error
      FROM steps
    ON CONFLICT (run_id, step_id, item) DO UPDATE
       SET status = excluded.status, attempt = excluded.attempt, uses = excluded.uses,
           started_at = excluded.started_at, finished_at = excluded.finished_at,
           output = excluded.output, error = excluded.error
), noted AS (
    INSERT INTO event (topic, task_id, run_id, data)
    SELECT 'run.started', task_id, id, facts FROM held WHERE announce
    UNION ALL
    SELECT 'step.' || status, task_id, run_id,
           CASE WHEN item < 0 AND error IS NULL
                THEN jsonb_build_object('step_id', step_id, 'attempt', attempt)
                ELSE jsonb_strip_nulls(jsonb_build_object(
                    'step_id', step_id, 'attempt', attempt, 'item', nullif(item, -1),
                    'error', error)) END
      FROM steps
     WHERE status IN ('succeeded', 'failed', 'skipped')
)
SELECT id FROM held;

-- name: checkpoints
-- What runs have already done.
SELECT run_id, step_id, item, status, attempt, uses, started_at, finished_at, output, error
  FROM step_run
 WHERE run_id = ANY(%(ids)s::uuid[])
 ORDER BY run_id, started_at, step_id, item;

-- name: settled
-- Which of these runs have ended with exactly this lease: a commit whose answer was lost.
SELECT r.id
  FROM unnest(%(ids)s::uuid[], %(tokens)s::integer[]) AS given (id, token)
  JOIN task_run AS r ON r.id = given.id
 WHERE r.lease_token = given.token AND r.worker_id = %(worker_id)s;

-- name: expire
-- Take runs from holders that stopped renewing: queue them again, or bury what was asked to
-- stop and what has taken too many workers with it. A first crash is blamed on all that the
-- worker held; from then on a run is a suspect, and blamed only when it had started.
WITH gone AS (
    SELECT id, crashes + (started_at IS NOT NULL)::integer AS blame, cancel_requested
      FROM due_work
     WHERE state = 'leased' AND locked_until < coalesce(%(now)s, now())
     ORDER BY locked_until LIMIT %(limit)s
       FOR UPDATE SKIP LOCKED
), again AS (
    UPDATE due_work AS w
       SET state = 'ready', locked_by = NULL, locked_until = NULL, crashes = gone.blame,
           resumed = true
      FROM gone
     WHERE w.id = ANY(ARRAY(SELECT id FROM gone)) AND w.id = gone.id
       AND gone.blame < %(max_crashes)s AND NOT gone.cancel_requested
    RETURNING w.id, w.task_id, w.scheduled_for, w.attempt, w.crashes
), buried AS (
    DELETE FROM due_work AS w
     USING gone
     WHERE w.id = ANY(ARRAY(SELECT id FROM gone)) AND w.id = gone.id
       AND (gone.blame >= %(max_crashes)s OR gone.cancel_requested)
    RETURNING w.*, CASE WHEN gone.cancel_requested THEN 'canceled' ELSE 'dead' END AS status,
              CASE WHEN gone.cancel_requested
                   THEN jsonb_build_object('code', 'canceled',
                        'message', 'canceled on request; its worker had stopped renewing')
                   ELSE jsonb_build_object('code', 'poison', 'message', format(
                        'the run ended without a result %%s times: its workers died or froze',
                        gone.blame)) END AS reason
), recorded AS (
    INSERT INTO task_run (id, task_id, task_version, scheduled_for, run_at, started_at,
                          finished_at, status, trigger, attempt, lease_token, worker_id, payload,
                          error)
    SELECT id, task_id, task_version, scheduled_for, run_at, started_at,
           coalesce(%(now)s, now()), status, trigger, attempt, lease_token, locked_by, payload,
           reason
      FROM buried
), noted AS (
    INSERT INTO event (occurred_at, topic, task_id, run_id, data)
    SELECT coalesce(%(now)s, now()), 'run.retrying', task_id, id,
           jsonb_build_object('reason', 'lease_expired', 'attempt', attempt,
                              'crashes', crashes, 'scheduled_for', scheduled_for)
      FROM again
    UNION ALL
    SELECT coalesce(%(now)s, now()), 'run.' || status, task_id, id,
           jsonb_build_object('attempt', attempt, 'scheduled_for', scheduled_for,
                              'error', reason)
      FROM buried
)
SELECT (SELECT count(*) FROM again), (SELECT count(*) FROM buried);

-- name: cancel
-- End the runs that nobody executes; ask the holders of the others to stop.
WITH target AS (
    SELECT id, state FROM due_work
     WHERE (id = ANY(%(run_ids)s::uuid[]) OR task_id = ANY(%(task_ids)s::uuid[]))
       FOR UPDATE
), ended AS (
    DELETE FROM due_work AS w
     USING target
     WHERE w.id = ANY(ARRAY(SELECT id FROM target)) AND w.id = target.id
       AND target.state <> 'leased'
    RETURNING w.*
), asked AS (
    UPDATE due_work AS w
       SET cancel_requested = true
      FROM target
     WHERE w.id = ANY(ARRAY(SELECT id FROM target)) AND w.id = target.id
       AND target.state = 'leased'
    RETURNING w.id
), recorded AS (
    INSERT INTO task_run (id, task_id, task_version, scheduled_for, run_at, started_at,
                          finished_at, status, trigger, attempt, lease_token, payload, error)
    SELECT id, task_id, task_version, scheduled_for, run_at, started_at,
           coalesce(%(now)s, now()), 'canceled', trigger, attempt, lease_token, payload,
           jsonb_build_object('code', 'canceled', 'message', %(reason)s::text)
      FROM ended
), noted AS (
    INSERT INTO event (occurred_at, topic, task_id, run_id, data)
    SELECT coalesce(%(now)s, now()), 'run.canceled', task_id, id,
           jsonb_build_object('attempt', attempt, 'scheduled_for', scheduled_for,
                              'error', jsonb_build_object('code', 'canceled',
                                                          'message', %(reason)s::text))
      FROM ended
)
SELECT id, true FROM ended UNION ALL SELECT id, false FROM asked;

-- name: redrive
-- Queue a run again that ended badly. Its checkpoints stay, its token goes on; failures that
-- nothing handled are forgotten, so that they are tried as often as the first time, and so are
-- questions without an answer and rejections, so that they are asked anew, and the steps that
-- the caller names.
WITH old AS (
    DELETE FROM task_run
     WHERE id = %(run_id)s AND status IN ('failed', 'dead', 'canceled')
    RETURNING *
), made AS (
    INSERT INTO due_work (id, task_id, task_version, scheduled_for, run_at, sort_key, priority,
                          state, trigger, lease_token, resumed, created_by, concurrency_key,
                          max_concurrency, rate_runs, rate_seconds, payload)
    SELECT old.id, old.task_id, old.task_version, old.scheduled_for,
           coalesce(%(now)s, now()),
           (date_part('epoch', coalesce(%(now)s, now())) * 1000)::bigint - t.priority * 60000,
           t.priority, 'ready', old.trigger, old.lease_token, true, t.created_by, %(key)s,
           %(most)s, %(rate_runs)s, %(rate_seconds)s, old.payload
      FROM old JOIN task AS t ON t.id = old.task_id
    ON CONFLICT (task_id, scheduled_for) DO NOTHING
    RETURNING id, task_id, scheduled_for
), forgotten AS (
    DELETE FROM step_run
     USING made
     WHERE run_id = made.id
       AND (step_run.status IN ('running', 'waiting')
            OR step_run.status = 'failed' AND step_run.error -> 'handled' IS DISTINCT FROM 'true'
            OR step_run.uses = '' AND step_run.output -> 'approved' = 'false'
            OR step_run.step_id = ANY(%(forget)s::text[]))
), noted AS (
    INSERT INTO event (occurred_at, topic, task_id, run_id, data)
    SELECT coalesce(%(now)s, now()), 'run.queued', task_id, id,
           jsonb_build_object('reason', 'redriven',
                              'scheduled_for', scheduled_for)
      FROM made
)
SELECT (SELECT count(*) FROM old), (SELECT count(*) FROM made);

-- name: hint
-- Wake the workers; once after a batch, because a NOTIFY makes commits queue up.
SELECT pg_notify('ordinaut_work', '');

-- name: hint_cancel
-- Make workers look at once which of their runs shall stop.
SELECT pg_notify('ordinaut_cancel', '');
