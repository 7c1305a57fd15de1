-- What the operator decided about extensions while they ran; it wins over the manifest.
CREATE TABLE extension (
    id          text PRIMARY KEY,
    enabled     boolean NOT NULL,
    updated_at  timestamptz NOT NULL DEFAULT now()
);
