-- A process that stopped reporting is marked once, when it is found.
ALTER TABLE worker
    DROP CONSTRAINT worker_state_known,
    ADD CONSTRAINT worker_state_known
        CHECK (state IN ('running', 'draining', 'stopped', 'lost'));
