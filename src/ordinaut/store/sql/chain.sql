-- name: cursor
-- How far the chain has come, held until it has come further; and what has committed by now.
SELECT snapshot::text, seq, pg_current_snapshot()::text
  FROM event_cursor
 WHERE name = 'audit'
   FOR UPDATE;

-- name: head
SELECT position, hash FROM audit_seal ORDER BY position DESC LIMIT 1;

-- name: unsealed
-- Entries that have committed since the chain came this far, in the form that is hashed. One
-- whose transaction began later than that must have drawn a higher seq, too; one that has not
-- was put in between by hand, and is left for the verification to find.
SELECT a.seq,
       jsonb_build_array(
           a.seq, (extract(epoch FROM a.at) * 1000000)::bigint, a.actor_id, a.actor, a.action,
           a.entity, a.entity_id, a.before::text, a.after::text, a.request_id, a.address)::text
  FROM audit_log AS a
 WHERE a.xid >= pg_snapshot_xmin(%(done)s::pg_snapshot)
   AND NOT pg_visible_in_snapshot(a.xid, %(done)s::pg_snapshot)
   AND pg_visible_in_snapshot(a.xid, %(now)s::pg_snapshot)
   AND (a.seq > %(seq)s OR a.xid < pg_snapshot_xmax(%(done)s::pg_snapshot))
   AND NOT EXISTS (SELECT FROM audit_seal AS s WHERE s.seq = a.seq)
 ORDER BY a.seq
 LIMIT %(limit)s;

-- name: seal
INSERT INTO audit_seal (position, seq, hash, key_id)
SELECT n.position, n.seq, n.hash, %(key_id)s
  FROM unnest(%(positions)s::bigint[], %(seqs)s::bigint[], %(hashes)s::bytea[])
       AS n (position, seq, hash);

-- name: advance
UPDATE event_cursor
   SET snapshot = %(now)s::pg_snapshot,
       seq = greatest(seq, coalesce((SELECT max(s.seq) FROM audit_seal AS s), 0)),
       updated_at = now()
 WHERE name = 'audit';

-- name: sealed
-- The chain from a place on, with the entries as they are now.
SELECT s.position, s.seq, s.hash, s.key_id,
       jsonb_build_array(
           a.seq, (extract(epoch FROM a.at) * 1000000)::bigint, a.actor_id, a.actor, a.action,
           a.entity, a.entity_id, a.before::text, a.after::text, a.request_id, a.address)::text,
       a.seq IS NOT NULL
  FROM audit_seal AS s
  LEFT JOIN audit_log AS a ON a.seq = s.seq
 WHERE s.position > %(after)s
 ORDER BY s.position
 LIMIT %(limit)s;

-- name: strangers
-- Entries that should be in the chain by now and are not.
SELECT a.seq
  FROM audit_log AS a, event_cursor AS c
 WHERE c.name = 'audit'
   AND pg_visible_in_snapshot(a.xid, c.snapshot)
   AND NOT EXISTS (SELECT FROM audit_seal AS s WHERE s.seq = a.seq)
 ORDER BY a.seq
 LIMIT %(limit)s;

-- name: pending
-- How many entries wait for their seal, and since when.
SELECT count(*), min(a.at)
  FROM audit_log AS a, event_cursor AS c
 WHERE c.name = 'audit' AND NOT pg_visible_in_snapshot(a.xid, c.snapshot);
