-- Events that start one run together: a task says how, and until then they are held here.
ALTER TABLE task ADD COLUMN event_window jsonb;

-- A window takes events until closes_at; then the tick makes a run of it. The open one of a task
-- and a key is the one without ended_by, which says that it takes no more: its time was over when
-- the next event came, it was full, there were too many, or the task changed. count is of all
-- events that it heard, held of those that are kept beside the last; depth is of the deepest.
CREATE TABLE event_window (
    id         uuid PRIMARY KEY,
    task_id    uuid NOT NULL,
    key        text NOT NULL,
    opened_at  timestamptz NOT NULL,
    last_at    timestamptz NOT NULL,
    closes_at  timestamptz NOT NULL,
    ended_by   text,
    count      integer NOT NULL,
    held       integer NOT NULL,
    bytes      integer NOT NULL,
    depth      integer NOT NULL,
    last       jsonb NOT NULL,
    CONSTRAINT event_window_ended_known CHECK (ended_by IN ('time', 'full', 'room', 'change')),
    CONSTRAINT event_window_count_whole CHECK (count > held AND held >= 0)
);
CREATE INDEX event_window_closing ON event_window (closes_at);
CREATE UNIQUE INDEX event_window_open ON event_window (task_id, key) WHERE ended_by IS NULL;
CREATE INDEX event_window_task ON event_window (task_id);

-- The events of a window before its last one.
CREATE TABLE window_event (
    window_id  uuid NOT NULL REFERENCES event_window ON DELETE CASCADE,
    place      integer NOT NULL,
    event      jsonb NOT NULL,
    PRIMARY KEY (window_id, place)
);
