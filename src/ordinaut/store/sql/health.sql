-- name: server
-- What the server says of itself, and whether anything was migrated yet.
SELECT current_setting('server_version_num')::int / 10000,
       clock_timestamp(),
       to_regclass('alembic_version') IS NOT NULL;

-- name: revision
-- The last migration that was applied.
SELECT version_num FROM alembic_version;

-- name: session
-- Who answers.
SELECT pg_backend_pid();
