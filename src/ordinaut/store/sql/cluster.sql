-- name: workers
-- The processes, the living first; one that has not reported for a minute counts as lost.
SELECT w.id, w.kind, w.host, w.pid, w.version,
       CASE WHEN w.state <> 'stopped' AND w.heartbeat_at < %(now)s - %(silence)s
            THEN 'lost' ELSE w.state END,
       w.details, w.started_at, w.heartbeat_at,
       (SELECT count(*) FROM due_work d WHERE d.state = 'leased' AND d.locked_by = w.id)
  FROM worker w
 WHERE w.heartbeat_at > %(now)s - interval '1 day'
 ORDER BY w.state = 'stopped', w.heartbeat_at DESC
 LIMIT 1000;

-- name: queue
-- How much is queued, in which state, and since when the oldest of it is due.
SELECT state, count(*), min(run_at)
  FROM due_work
 GROUP BY state;

-- name: ping
SELECT 1;
