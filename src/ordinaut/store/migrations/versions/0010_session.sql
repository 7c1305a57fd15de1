-- When a family of refresh tokens began: it has a greatest age, however often it is renewed.
ALTER TABLE refresh_token ADD COLUMN began_at timestamptz NOT NULL DEFAULT now();
