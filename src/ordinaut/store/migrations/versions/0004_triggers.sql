-- From where on events start tasks: what was said before this is not theirs to hear.
INSERT INTO event_cursor (name, snapshot) VALUES ('triggers', pg_current_snapshot())
    ON CONFLICT (name) DO NOTHING;
