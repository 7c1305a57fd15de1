-- The topics that a waiting run listens for, as scheduler/waits.py looks them up. Empty: nobody
-- has looked yet whether the answer is there already. NULL: no event can end the waiting.
ALTER TABLE due_work ADD COLUMN hears text[];
UPDATE due_work SET hears = '{}' WHERE state = 'waiting';
CREATE INDEX due_work_listening ON due_work (id) WHERE state = 'waiting' AND hears IS NOT NULL;
CREATE INDEX due_work_unheard ON due_work (id) WHERE state = 'waiting' AND hears = '{}';
CREATE INDEX due_work_hears ON due_work USING gin (hears) WITH (fastupdate = off)
    WHERE state = 'waiting' AND hears <> '{}';

-- For what happened since a run began to wait; it costs an insert next to nothing.
CREATE INDEX event_age ON event USING brin (occurred_at)
    WITH (pages_per_range = 16, autosummarize = on);

INSERT INTO event_cursor (name, snapshot) VALUES ('waits', pg_current_snapshot());
