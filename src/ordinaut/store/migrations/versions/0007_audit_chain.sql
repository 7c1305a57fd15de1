-- The chain over the audit log: each seal holds the keyed hash of its entry and of the seal
-- before. It is a table of its own, so that those who write entries do not wait for each other:
-- a leader seals what has committed (store/chain.py). xid tells which entries those are.
ALTER TABLE audit_log ADD COLUMN xid xid8 NOT NULL DEFAULT pg_current_xact_id();
CREATE INDEX audit_log_xid ON audit_log (xid);

CREATE TABLE audit_seal (
    position   bigint PRIMARY KEY,
    seq        bigint NOT NULL CONSTRAINT audit_seal_entry_unique UNIQUE,
    hash       bytea NOT NULL,
    key_id     text NOT NULL,
    sealed_at  timestamptz NOT NULL DEFAULT now()
);

-- Up to which snapshot entries are sealed, and the highest seq among them.
INSERT INTO event_cursor (name, snapshot)
VALUES ('audit', format('%1$s:%1$s:', pg_current_xact_id())::pg_snapshot);

-- Drop one daily partition of a table that has such; for roles that own no table.
CREATE FUNCTION drop_partition(child text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF child !~ '^(task_run|step_run|run_log|event)_\d{8}$' THEN
        RAISE EXCEPTION '% is not a daily partition', child USING ERRCODE = 'invalid_parameter_value';
    END IF;
    EXECUTE format('DROP TABLE public.%I', child);
END
$$;
