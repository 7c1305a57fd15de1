-- name: exists
SELECT rolname FROM pg_roles WHERE rolname = ANY(%(names)s);

-- name: begin
-- One process at a time: two that change the same rights would stumble over each other.
SELECT pg_advisory_xact_lock(hashtextextended('ordinaut.roles', 0));

-- name: close
-- Nobody but the owner makes anything, not even a temporary table.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION ensure_partitions(date, integer), drop_partition(text) FROM PUBLIC;

-- name: lend
-- What changes tables runs as their owner, and finds no function but those it means.
ALTER FUNCTION ensure_partitions(date, integer)
    SECURITY DEFINER SET search_path = public, pg_temp;
ALTER FUNCTION drop_partition(text)
    SECURITY DEFINER SET search_path = public, pg_temp;

-- name: app
-- The API and the workers. Of the audit log they write what is theirs to say: its order, its
-- time and its transaction are the database's. The jobs of the scheduler are pickles: whoever
-- may write them runs code there.
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {app};
GRANT USAGE ON SCHEMA public TO {app};
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {app};
REVOKE ALL ON alembic_version, audit_log, audit_seal, apscheduler_jobs FROM {app};
GRANT SELECT ON alembic_version, audit_log, audit_seal TO {app};
GRANT INSERT (actor_id, actor, action, entity, entity_id, before, after, request_id, address)
    ON audit_log TO {app};

-- name: scheduler
-- What the scheduler may besides.
GRANT SELECT, INSERT, UPDATE, DELETE ON apscheduler_jobs TO {scheduler};
GRANT INSERT ON audit_seal TO {scheduler};
GRANT EXECUTE ON FUNCTION ensure_partitions(date, integer), drop_partition(text) TO {scheduler};

-- name: member
GRANT {app} TO {scheduler};
