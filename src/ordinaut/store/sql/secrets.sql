-- name: put
-- Store a secret, in place of the one of this name.
INSERT INTO secret (id, name, ciphertext, key_id, created_by, created_at, updated_at)
VALUES (%(id)s, %(name)s, %(ciphertext)s, %(key_id)s, %(owner)s, %(now)s, %(now)s)
    ON CONFLICT ON CONSTRAINT secret_name_unique DO UPDATE
   SET ciphertext = excluded.ciphertext, key_id = excluded.key_id, updated_at = excluded.updated_at
RETURNING id, name, created_by, created_at, updated_at;

-- name: get
SELECT id, name, created_by, created_at, updated_at
  FROM secret
 WHERE created_by = %(owner)s AND name = %(name)s;

-- name: page
SELECT id, name, created_by, created_at, updated_at
  FROM secret
 WHERE (%(owner)s::uuid IS NULL OR created_by = %(owner)s)
   AND (%(before)s::uuid IS NULL OR id < %(before)s)
 ORDER BY id DESC
 LIMIT %(limit)s;

-- name: delete
DELETE FROM secret WHERE created_by = %(owner)s AND name = %(name)s RETURNING name;

-- name: known
-- Which of these names an agent has.
SELECT name FROM secret WHERE created_by = %(owner)s AND name = ANY(%(names)s);

-- name: sealed
-- The ciphertexts of an agent, for those of its names that exist.
SELECT name, key_id, ciphertext
  FROM secret
 WHERE created_by = %(owner)s AND name = ANY(%(names)s);

-- name: old
-- Some that another key than the current one encrypted, held until they are written anew.
SELECT id, created_by, name, key_id, ciphertext
  FROM secret
 WHERE key_id <> %(key_id)s
 ORDER BY id
 LIMIT %(limit)s
   FOR UPDATE;

-- name: reseal
UPDATE secret AS s
   SET ciphertext = n.ciphertext, key_id = %(key_id)s
  FROM unnest(%(ids)s::uuid[], %(ciphertexts)s::bytea[]) AS n (id, ciphertext)
 WHERE s.id = n.id;
