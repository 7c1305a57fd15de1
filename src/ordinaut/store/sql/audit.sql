-- name: record
-- Who did what; nothing in the product updates or deletes a row. The transaction gets its number
-- before the entry gets its place: the chain is built on that (store/chain.py).
INSERT INTO audit_log (actor_id, actor, action, entity, entity_id, before, after,
                       request_id, address)
SELECT %(actor_id)s, %(actor)s, %(action)s, %(entity)s, %(entity_id)s, %(before)s, %(after)s,
       %(request_id)s, %(address)s
  FROM (SELECT pg_current_xact_id() AS xid) AS began
 WHERE began.xid IS NOT NULL;

-- name: page
-- Newest first. The cursor is the place in the log.
SELECT seq, at, actor_id, actor, action, entity, entity_id, before, after, request_id, address
  FROM audit_log
 WHERE (%(before)s::bigint IS NULL OR seq < %(before)s)
   AND (%(entity)s::text IS NULL OR entity = %(entity)s)
   AND (%(entity_id)s::text IS NULL OR entity_id = %(entity_id)s)
   AND (%(actor_id)s::uuid IS NULL OR actor_id = %(actor_id)s)
   AND (%(action)s::text IS NULL OR action = %(action)s)
 ORDER BY seq DESC
 LIMIT %(limit)s;
