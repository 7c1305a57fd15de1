-- Who acts -------------------------------------------------------------------------------

CREATE TABLE agent (
    id          uuid PRIMARY KEY,
    name        text NOT NULL CONSTRAINT agent_name_unique UNIQUE,
    scopes      text[] NOT NULL DEFAULT '{}',
    status      text NOT NULL DEFAULT 'active',
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    deleted_at  timestamptz,
    CONSTRAINT agent_status_known CHECK (status IN ('active', 'disabled'))
);

-- A key is shown once; what is stored is its prefix and HMAC-SHA256(pepper, key).
CREATE TABLE api_key (
    id            uuid PRIMARY KEY,
    agent_id      uuid NOT NULL REFERENCES agent,
    name          text NOT NULL DEFAULT '',
    prefix        text NOT NULL,
    digest        bytea NOT NULL CONSTRAINT api_key_digest_unique UNIQUE,
    created_at    timestamptz NOT NULL DEFAULT now(),
    expires_at    timestamptz,
    last_used_at  timestamptz,
    revoked_at    timestamptz
);
CREATE INDEX api_key_agent ON api_key (agent_id);

-- Refresh tokens rotate: one of a family is valid, and the use of an older one revokes all.
CREATE TABLE refresh_token (
    id          uuid PRIMARY KEY,
    family      uuid NOT NULL,
    agent_id    uuid NOT NULL REFERENCES agent,
    digest      bytea NOT NULL CONSTRAINT refresh_token_digest_unique UNIQUE,
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz NOT NULL,
    used_at     timestamptz,
    revoked_at  timestamptz
);
CREATE INDEX refresh_token_family ON refresh_token (family);
CREATE INDEX refresh_token_expiry ON refresh_token (expires_at);

-- Access tokens that were revoked before they expired; every process looks here.
CREATE TABLE revoked_token (
    jti         uuid PRIMARY KEY,
    expires_at  timestamptz NOT NULL
);

-- What runs, when and how ----------------------------------------------------------------

-- A task, its definitions and its schedule are written by one statement, and neither tasks nor
-- agents are ever deleted from their tables. Foreign keys would add nothing but the checks of
-- three rows on each insert, a quarter of its cost, and let all inserts of one agent lock its
-- row in turn.
CREATE TABLE task (
    id                      uuid PRIMARY KEY,
    version                 integer NOT NULL DEFAULT 1,
    title                   text NOT NULL,
    description             text NOT NULL DEFAULT '',
    status                  text NOT NULL DEFAULT 'active',
    schedule_kind           text NOT NULL,
    schedule_expr           text NOT NULL,
    timezone                text NOT NULL,
    anchor                  timestamptz NOT NULL,
    starts_at               timestamptz,
    ends_at                 timestamptz,
    max_runs                integer,
    jitter_seconds          integer NOT NULL DEFAULT 0,
    dst_gap                 text NOT NULL DEFAULT 'shift',
    dst_fold                text NOT NULL DEFAULT 'first',
    catchup                 text NOT NULL DEFAULT 'last',
    catchup_window_seconds  integer NOT NULL DEFAULT 86400,
    overlap                 text NOT NULL DEFAULT 'allow',
    exclude                 text[] NOT NULL DEFAULT '{}',
    on_excluded             text NOT NULL DEFAULT 'skip',
    priority                smallint NOT NULL DEFAULT 5,
    dedupe_key              text,
    dedupe_window_seconds   integer NOT NULL DEFAULT 0,
    max_retries             integer NOT NULL DEFAULT 3,
    backoff_strategy        text NOT NULL DEFAULT 'exponential_jitter',
    backoff_seconds         double precision NOT NULL DEFAULT 2,
    timeout_seconds         double precision,
    concurrency_key         text,
    max_concurrency         integer NOT NULL DEFAULT 1,
    rate_limit              text,
    labels                  jsonb NOT NULL DEFAULT '{}',
    created_by              uuid NOT NULL,
    created_at              timestamptz NOT NULL DEFAULT now(),
    updated_at              timestamptz NOT NULL DEFAULT now(),
    deleted_at              timestamptz,
    CONSTRAINT task_status_known CHECK (status IN ('active', 'paused', 'canceled', 'completed')),
    CONSTRAINT task_kind_known CHECK (
        schedule_kind IN ('rrule', 'cron', 'interval', 'once', 'event', 'condition')),
    CONSTRAINT task_priority_range CHECK (priority BETWEEN 1 AND 9),
    CONSTRAINT task_max_concurrency_positive CHECK (max_concurrency >= 1)
);
CREATE INDEX task_owner ON task (created_by, id DESC) WHERE deleted_at IS NULL;
CREATE INDEX task_dedupe ON task (created_by, dedupe_key, created_at DESC)
    WHERE dedupe_key IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX task_event ON task (schedule_kind)
    WHERE schedule_kind IN ('event', 'condition') AND status = 'active' AND deleted_at IS NULL;

-- The pipelines a task has had. A run ends with the version that it started with.
CREATE TABLE task_definition (
    task_id  uuid NOT NULL,
    version  integer NOT NULL,
    payload  jsonb NOT NULL,
    PRIMARY KEY (task_id, version)
);

-- The part of a task that every firing rewrites, apart so that the wide row is not copied.
-- next_run_at is NULL when nothing follows (paused, completed, event tasks). Every occurrence up
-- to decided_until has its run or its verdict. At look_at, if it comes first, the tick finds one
-- that a calendar or a clock change takes away. A snoozed occurrence (snoozed_for) is still to
-- come, at snoozed_to.
CREATE TABLE schedule (
    task_id             uuid PRIMARY KEY,
    next_run_at         timestamptz,
    look_at             timestamptz,
    decided_until       timestamptz NOT NULL DEFAULT now(),
    last_scheduled_for  timestamptz,
    fired               integer NOT NULL DEFAULT 0,
    paused_at           timestamptz,
    resumed_at          timestamptz,
    snoozed_for         timestamptz,
    snoozed_to          timestamptz,
    tzdata              text NOT NULL DEFAULT '',
    CONSTRAINT schedule_snooze_whole CHECK ((snoozed_for IS NULL) = (snoozed_to IS NULL))
) WITH (fillfactor = 70);
CREATE INDEX schedule_due ON schedule (least(next_run_at, look_at))
    WHERE least(next_run_at, look_at) IS NOT NULL;

-- The times in which a task was paused, and what its resuming said about what fell into them.
CREATE TABLE pause (
    task_id   uuid NOT NULL REFERENCES task,
    began_at  timestamptz NOT NULL,
    ended_at  timestamptz,
    catchup   text,
    PRIMARY KEY (task_id, began_at)
);

CREATE TABLE calendar (
    id          uuid PRIMARY KEY,
    name        text NOT NULL,
    definition  jsonb NOT NULL,
    version     integer NOT NULL DEFAULT 1,
    created_by  uuid NOT NULL REFERENCES agent,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT calendar_name_unique UNIQUE (name)
);

CREATE TABLE secret (
    id          uuid PRIMARY KEY,
    name        text NOT NULL,
    ciphertext  bytea NOT NULL,
    key_id      text NOT NULL,
    created_by  uuid NOT NULL REFERENCES agent,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT secret_name_unique UNIQUE (created_by, name)
);

-- The queue ------------------------------------------------------------------------------

-- One row is one run that has not ended; its id is the id of the run over all attempts.
--   scheduled  run_at lies ahead (jitter, retry, snooze); the tick makes it ready
--   ready      may be leased, in the order of sort_key
--   leased     locked_by holds it until locked_until; lease_token fences every write
--   waiting    suspended by a step until run_at, an event or an approval (see "wait")
-- sort_key = run_at in ms - priority * 60,000: a step of priority is worth one minute of
-- waiting, so the urgent come first and nothing starves.
-- No foreign key to task: its share lock on each insert would hold the hot path.
CREATE TABLE due_work (
    id                uuid PRIMARY KEY,
    task_id           uuid NOT NULL,
    task_version      integer NOT NULL,
    scheduled_for     timestamptz,
    run_at            timestamptz NOT NULL,
    sort_key          bigint NOT NULL,
    priority          smallint NOT NULL,
    state             text NOT NULL DEFAULT 'ready',
    trigger           text NOT NULL DEFAULT 'schedule',
    attempt           integer NOT NULL DEFAULT 0,
    crashes           smallint NOT NULL DEFAULT 0,
    lease_token       integer NOT NULL DEFAULT 0,
    locked_by         uuid,
    locked_until      timestamptz,
    cancel_requested  boolean NOT NULL DEFAULT false,
    resumed           boolean NOT NULL DEFAULT false,
    concurrency_key   text,
    max_concurrency   integer NOT NULL DEFAULT 1,
    payload           jsonb,
    wait              jsonb,
    error             jsonb,
    started_at        timestamptz,
    created_at        timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT due_work_occurrence_unique UNIQUE (task_id, scheduled_for),
    CONSTRAINT due_work_state_known CHECK (state IN ('scheduled', 'ready', 'leased', 'waiting')),
    CONSTRAINT due_work_lease_whole CHECK (
        (state = 'leased') = (locked_by IS NOT NULL)
        AND (state = 'leased') = (locked_until IS NOT NULL))
) WITH (
    fillfactor = 80,
    autovacuum_vacuum_threshold = 20000,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_analyze_threshold = 20000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_vacuum_cost_delay = 0
);
CREATE INDEX due_work_ready ON due_work (sort_key, id)
    WHERE state = 'ready' AND concurrency_key IS NULL;
CREATE INDEX due_work_keyed ON due_work (concurrency_key, sort_key, id)
    WHERE state = 'ready' AND concurrency_key IS NOT NULL;
CREATE INDEX due_work_wake ON due_work (run_at) WHERE state IN ('scheduled', 'waiting');
CREATE INDEX due_work_expiry ON due_work (locked_until) WHERE state = 'leased';
CREATE INDEX due_work_concurrency ON due_work (concurrency_key)
    WHERE state = 'leased' AND concurrency_key IS NOT NULL;

-- History --------------------------------------------------------------------------------

-- Runs that ended, written once. Partitioned by the time inside the UUIDv7, so that a look-up
-- by id reads one partition and retention drops whole ones.
CREATE TABLE task_run (
    id             uuid PRIMARY KEY,
    task_id        uuid NOT NULL,
    task_version   integer NOT NULL,
    scheduled_for  timestamptz,
    run_at         timestamptz NOT NULL,
    started_at     timestamptz,
    finished_at    timestamptz NOT NULL,
    status         text NOT NULL,
    trigger        text NOT NULL,
    attempt        integer NOT NULL,
    lease_token    integer NOT NULL,
    worker_id      uuid,
    payload        jsonb,
    output         jsonb,
    error          jsonb,
    CONSTRAINT task_run_status_known CHECK (status IN ('succeeded', 'failed', 'canceled', 'dead'))
) PARTITION BY RANGE (id);
CREATE INDEX task_run_task ON task_run (task_id, id DESC);
CREATE INDEX task_run_trouble ON task_run (status, id DESC) WHERE status <> 'succeeded';

-- Checkpoints: a completed step is never executed again. item is -1 outside foreach.
CREATE TABLE step_run (
    run_id       uuid NOT NULL,
    step_id      text NOT NULL,
    item         integer NOT NULL DEFAULT -1,
    status       text NOT NULL,
    attempt      integer NOT NULL,
    uses         text NOT NULL DEFAULT '',
    started_at   timestamptz NOT NULL,
    finished_at  timestamptz,
    output       jsonb,
    error        jsonb,
    PRIMARY KEY (run_id, step_id, item),
    CONSTRAINT step_run_status_known CHECK (
        status IN ('running', 'waiting', 'succeeded', 'failed', 'skipped'))
) PARTITION BY RANGE (run_id);

-- The verdict on every occurrence that did not become a run, with its reason.
CREATE TABLE occurrence (
    task_id        uuid NOT NULL,
    scheduled_for  timestamptz NOT NULL,
    verdict        text NOT NULL,
    reason         text NOT NULL DEFAULT '',
    decided_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (task_id, scheduled_for)
);
CREATE INDEX occurrence_age ON occurrence USING brin (decided_at);

-- The outbox. xid comes before seq so that the transaction has its number before the event
-- gets its place: the relay reads what committed since its last snapshot (store/journal.py).
CREATE TABLE event (
    xid          xid8 NOT NULL DEFAULT pg_current_xact_id(),
    seq          bigint GENERATED ALWAYS AS IDENTITY,
    occurred_at  timestamptz NOT NULL DEFAULT now(),
    topic        text NOT NULL,
    task_id      uuid,
    run_id       uuid,
    subject      text NOT NULL DEFAULT '',
    data         jsonb NOT NULL DEFAULT '{}'
) PARTITION BY RANGE (occurred_at);
CREATE INDEX event_place ON event (seq);
CREATE INDEX event_fresh ON event (xid, seq);

-- How far each reader of the outbox has come: it has all that snapshot sees, and of what
-- target sees besides, the events up to seq.
CREATE TABLE event_cursor (
    name        text PRIMARY KEY,
    snapshot    pg_snapshot NOT NULL,
    target      pg_snapshot,
    seq         bigint NOT NULL DEFAULT 0,
    updated_at  timestamptz NOT NULL DEFAULT now()
);

-- Append-only. Nothing in the product updates or deletes a row.
CREATE TABLE audit_log (
    seq         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT now(),
    actor_id    uuid,
    actor       text NOT NULL,
    action      text NOT NULL,
    entity      text NOT NULL,
    entity_id   text NOT NULL,
    before      jsonb,
    after       jsonb,
    request_id  text NOT NULL DEFAULT '',
    address     text NOT NULL DEFAULT ''
);
CREATE INDEX audit_log_entity ON audit_log (entity, entity_id, seq DESC);

-- Processes ------------------------------------------------------------------------------

CREATE TABLE worker (
    id            uuid PRIMARY KEY,
    kind          text NOT NULL DEFAULT 'worker',
    host          text NOT NULL,
    pid           integer NOT NULL,
    version       text NOT NULL,
    state         text NOT NULL DEFAULT 'running',
    details       jsonb NOT NULL DEFAULT '{}',
    started_at    timestamptz NOT NULL DEFAULT now(),
    heartbeat_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT worker_kind_known CHECK (kind IN ('worker', 'scheduler', 'api')),
    CONSTRAINT worker_state_known CHECK (state IN ('running', 'draining', 'stopped'))
) WITH (fillfactor = 50);

-- The one holder of a duty that must not be done twice; epoch fences the writes of an old one.
CREATE TABLE leader (
    name    text PRIMARY KEY,
    holder  uuid,
    epoch   bigint NOT NULL DEFAULT 0,
    until   timestamptz NOT NULL DEFAULT '-infinity'
);

-- When a scheduler last ticked, and the times in which none did: the ledger's "nobody ran".
CREATE TABLE pulse (
    name  text PRIMARY KEY,
    at    timestamptz NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE downtime (
    began_at  timestamptz PRIMARY KEY,
    ended_at  timestamptz NOT NULL,
    CONSTRAINT downtime_forward CHECK (ended_at > began_at)
);

-- Answers kept for a repeated Idempotency-Key.
CREATE TABLE idempotency (
    agent_id     uuid NOT NULL,
    key          text NOT NULL,
    fingerprint  bytea NOT NULL,
    status       smallint,
    body         bytea,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (agent_id, key)
);
CREATE INDEX idempotency_age ON idempotency (created_at);

-- APScheduler's own shape; a row is a pickle, so the table belongs to the scheduler alone.
CREATE TABLE apscheduler_jobs (
    id             varchar(191) PRIMARY KEY,
    next_run_time  double precision,
    job_state      bytea NOT NULL
);
CREATE INDEX ix_apscheduler_jobs_next_run_time ON apscheduler_jobs (next_run_time);

-- Partitions -----------------------------------------------------------------------------

-- The smallest UUIDv7 of an instant.
CREATE FUNCTION uuid7_floor(instant timestamptz) RETURNS uuid
LANGUAGE sql STABLE AS $$
    SELECT (lpad(to_hex((extract(epoch FROM instant) * 1000)::bigint), 12, '0')
            || repeat('0', 20))::uuid
$$;

-- Create the daily partitions of [first, first + days) that do not exist yet.
CREATE FUNCTION ensure_partitions(first date, days integer) RETURNS integer
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
    FOREACH parent IN ARRAY ARRAY['task_run', 'step_run', 'event'] LOOP
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

-- Rows of a day that nobody prepared for land here, and are never refused.
CREATE TABLE task_run_default PARTITION OF task_run DEFAULT;
CREATE TABLE step_run_default PARTITION OF step_run DEFAULT;
CREATE TABLE event_default PARTITION OF event DEFAULT;

SELECT ensure_partitions((now() AT TIME ZONE 'UTC')::date - 1, 4);

INSERT INTO leader (name) VALUES ('housekeeping'), ('relay');
INSERT INTO pulse (name, at) VALUES ('scheduler', now());
INSERT INTO event_cursor (name, snapshot) VALUES ('relay', pg_current_snapshot());
