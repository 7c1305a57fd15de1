-- Rate limits, and a fair share of the workers for each agent.

-- The owner of a run's task, whose runs share what the workers can do with those of others. Runs
-- that were queued before count as those of nobody.
ALTER TABLE due_work
    ADD COLUMN created_by uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    ADD COLUMN rate_runs integer,
    ADD COLUMN rate_seconds integer,
    ADD CONSTRAINT due_work_rate_whole CHECK (
        (rate_runs IS NULL) = (rate_seconds IS NULL)
        AND (rate_runs IS NULL OR concurrency_key IS NOT NULL));

DROP INDEX due_work_ready;
CREATE INDEX due_work_ready ON due_work (created_by, sort_key, id)
    WHERE state = 'ready' AND concurrency_key IS NULL;

-- The starts that count against the rate of a key, each until it counts no more. Written with
-- the lease, so there is no counter that all of them would have to update.
CREATE TABLE rated_start (
    concurrency_key  text NOT NULL,
    until            timestamptz NOT NULL
) WITH (
    autovacuum_vacuum_threshold = 20000,
    autovacuum_vacuum_scale_factor = 0
);
CREATE INDEX rated_start_key ON rated_start (concurrency_key, until);
CREATE INDEX rated_start_until ON rated_start (until);
