-- Work with a concurrency key is found in the order of its urgency, as work without one is.
CREATE INDEX due_work_urgent ON due_work (created_by, sort_key, id)
    WHERE state = 'ready' AND concurrency_key IS NOT NULL;

-- One index of leased runs instead of two. Those of a key are counted in it; to find those that
-- ran out, all of it is read, and it is short.
DROP INDEX due_work_concurrency;
DROP INDEX due_work_expiry;
CREATE INDEX due_work_expiry ON due_work (concurrency_key, locked_until) WHERE state = 'leased';

-- What one lease starts of a key is one row.
ALTER TABLE rated_start ADD COLUMN runs integer NOT NULL DEFAULT 1;
