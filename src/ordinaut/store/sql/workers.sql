-- name: report
-- A sign of life; the answer is the time here, which the worker's clock follows.
INSERT INTO worker (id, kind, host, pid, version, state, details)
VALUES (%(id)s, %(kind)s, %(host)s, %(pid)s, %(version)s, %(state)s, %(details)s::jsonb)
ON CONFLICT (id) DO UPDATE
   SET state = excluded.state, details = excluded.details, heartbeat_at = now()
RETURNING clock_timestamp();
