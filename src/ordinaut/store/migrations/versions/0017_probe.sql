-- What a condition task polls: when next, who does it now, and what is known of the condition.
-- A poll is not a run: it leaves no history, only this row.
--   next_at    NULL while nothing is polled: the task is not active
--   patience   how long the holder of a poll may take; each crash in a row doubles it
--   armed      the condition was false since it last was true, or nothing is known of it
--   holds      what the last poll that did not fail said, and since when all of them say so
--   failures   polls in a row that failed, since failing_since
CREATE TABLE probe (
    task_id        uuid PRIMARY KEY,
    every          double precision NOT NULL,
    patience       interval NOT NULL,
    next_at        timestamptz,
    armed          boolean NOT NULL DEFAULT true,
    holds          boolean,
    since          timestamptz,
    polled_at      timestamptz,
    fired_at       timestamptz,
    error          jsonb,
    failures       integer NOT NULL DEFAULT 0,
    failing_since  timestamptz,
    crashes        smallint NOT NULL DEFAULT 0,
    lease_token    integer NOT NULL DEFAULT 0,
    locked_by      uuid,
    locked_until   timestamptz,
    CONSTRAINT probe_lease_whole CHECK ((locked_by IS NULL) = (locked_until IS NULL))
) WITH (fillfactor = 70);
CREATE INDEX probe_due ON probe (greatest(next_at, locked_until)) WHERE next_at IS NOT NULL;
