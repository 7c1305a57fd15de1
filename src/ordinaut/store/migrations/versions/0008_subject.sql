-- Who an agent is to another issuer of tokens: "issuer|subject".
ALTER TABLE agent ADD COLUMN subject text CONSTRAINT agent_subject_unique UNIQUE;
