-- name: report
-- A sign of life, and an event when the state is a new one; the answer is the time here, which
-- the worker's clock follows.
WITH before AS (
    SELECT state FROM worker WHERE id = %(id)s
), said AS (
    INSERT INTO worker (id, kind, host, pid, version, state, details)
    VALUES (%(id)s, %(kind)s, %(host)s, %(pid)s, %(version)s, %(state)s, %(details)s::jsonb)
    ON CONFLICT (id) DO UPDATE
       SET state = excluded.state, details = excluded.details, heartbeat_at = now()
    RETURNING *
), told AS (
    INSERT INTO event (topic, data)
    SELECT CASE state WHEN 'running' THEN 'worker.started'
                      WHEN 'draining' THEN 'worker.draining'
                      ELSE 'worker.stopped' END,
           jsonb_build_object('id', id, 'kind', kind, 'host', host, 'pid', pid,
                              'version', version)
      FROM said
     WHERE state IS DISTINCT FROM (SELECT state FROM before)
)
SELECT clock_timestamp() FROM said;

-- name: mark_lost
-- Note, and say once, which processes ended without a word.
WITH lost AS (
    UPDATE worker SET state = 'lost'
     WHERE state IN ('running', 'draining')
       AND heartbeat_at < coalesce(%(now)s, now()) - %(silence)s
    RETURNING id, kind, host, pid, version, heartbeat_at
), told AS (
    INSERT INTO event (topic, data)
    SELECT 'worker.lost',
           jsonb_build_object('id', id, 'kind', kind, 'host', host, 'pid', pid,
                              'version', version, 'heartbeat_at', heartbeat_at)
      FROM lost
)
SELECT id FROM lost;
