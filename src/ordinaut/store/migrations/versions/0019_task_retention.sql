-- How long the runs of a task are kept, when that is shorter than those of others.
ALTER TABLE task
    ADD COLUMN retention_days integer,
    ADD CONSTRAINT task_retention_positive CHECK (retention_days >= 1);
CREATE INDEX task_retained ON task (id) WHERE retention_days IS NOT NULL;
