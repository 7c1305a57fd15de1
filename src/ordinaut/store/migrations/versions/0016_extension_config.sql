-- What administrators configured; the settings of the environment win over it. Secrets are
-- named, as ${secrets.NAME}, and are those of the agent who configured it.
CREATE TABLE extension_config (
    id          text PRIMARY KEY,
    config      jsonb NOT NULL,
    agent_id    uuid NOT NULL REFERENCES agent,
    updated_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT extension_config_object CHECK (jsonb_typeof(config) = 'object')
);
