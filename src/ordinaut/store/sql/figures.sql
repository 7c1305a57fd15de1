-- name: snapshot
-- What is visible now; counting begins here.
SELECT pg_current_snapshot()::text;

-- name: run_events
-- Count the events of runs that were not visible in an earlier snapshot, each exactly once.
SELECT pg_current_snapshot()::text,
       coalesce((SELECT jsonb_object_agg(topic, n)
                   FROM (SELECT topic, count(*) AS n
                           FROM fact
                          WHERE xid >= pg_snapshot_xmin(%(seen)s::pg_snapshot)
                            AND NOT pg_visible_in_snapshot(xid, %(seen)s::pg_snapshot)
                            AND topic LIKE 'run.%%'
                          GROUP BY topic) AS fresh), '{}');
