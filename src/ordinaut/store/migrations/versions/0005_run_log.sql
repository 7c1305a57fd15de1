-- How far the step that runs has come, as its tool said last.
ALTER TABLE due_work ADD COLUMN progress jsonb;

-- The lines that tools write. seq counts the lines of an attempt, above the token of its lease:
-- so lines have their order, and one that is written again is the same.
CREATE TABLE run_log (
    run_id   uuid NOT NULL,
    seq      bigint NOT NULL,
    at       timestamptz NOT NULL,
    level    text NOT NULL,
    step_id  text NOT NULL,
    item     integer NOT NULL DEFAULT -1,
    message  text NOT NULL,
    fields   jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (run_id, seq),
    CONSTRAINT run_log_level_known CHECK (level IN ('debug', 'info', 'warning', 'error'))
) PARTITION BY RANGE (run_id);

-- Create the daily partitions of [first, first + days) that do not exist yet.
CREATE OR REPLACE FUNCTION ensure_partitions(first date, days integer) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    parent text;
    day date;
    begins timestamptz;
    ends timestamptz;
    lower_bound text;
    upper_bound text;
    made integer := 0;
BEGIN
    FOREACH parent IN ARRAY ARRAY['task_run', 'step_run', 'run_log', 'event'] LOOP
        FOR day IN SELECT first + i FROM generate_series(0, days - 1) AS i LOOP
            CONTINUE WHEN to_regclass(format('%I', parent || to_char(day, '_YYYYMMDD'))) IS NOT NULL;
            begins := day::timestamp AT TIME ZONE 'UTC';
            ends := (day + 1)::timestamp AT TIME ZONE 'UTC';
            IF parent = 'event' THEN
                lower_bound := begins::text;
                upper_bound := ends::text;
            ELSE
                lower_bound := uuid7_floor(begins)::text;
                upper_bound := uuid7_floor(ends)::text;
            END IF;
            EXECUTE format(
                'CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)',
                parent || to_char(day, '_YYYYMMDD'), parent, lower_bound, upper_bound);
            made := made + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END
$$;

CREATE TABLE run_log_default PARTITION OF run_log DEFAULT;

SELECT ensure_partitions((now() AT TIME ZONE 'UTC')::date - 1, 4);
