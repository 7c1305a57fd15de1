-- name: report
-- Note that a process lives, and in which state.
INSERT INTO worker (id, kind, host, pid, version, state, details)
VALUES (%(id)s, %(kind)s, %(host)s, %(pid)s, %(version)s, %(state)s, %(details)s)
    ON CONFLICT (id) DO UPDATE
   SET state = excluded.state, details = excluded.details, heartbeat_at = now();
