-- name: beat
-- Note that a scheduler lives. When the last one had been silent for too long, that was a
-- downtime. The row lock lets exactly one of several schedulers that start find it.
WITH before AS (
    SELECT at FROM pulse WHERE name = 'scheduler' FOR UPDATE
), moment AS MATERIALIZED (
    SELECT before.at, coalesce(%(now)s, clock_timestamp()) AS now FROM before
), beaten AS (
    UPDATE pulse SET at = greatest(moment.at, moment.now) FROM moment WHERE name = 'scheduler'
)
INSERT INTO downtime (began_at, ended_at)
SELECT at, now FROM moment WHERE now - at > %(silence)s
    ON CONFLICT DO NOTHING
RETURNING began_at, ended_at;

-- name: downtimes
-- The times since an instant in which no scheduler ticked.
SELECT began_at, ended_at FROM downtime WHERE ended_at > %(since)s ORDER BY began_at;
