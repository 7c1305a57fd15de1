-- name: listeners
-- The webhooks that are told of events; the last column says that their owner may hear of all
-- tasks. They are not removed before commit.
SELECT w.id, w.topics, w.filter, w.listens_from, w.created_by,
       a.scopes && '{admin,events:read:all}'
  FROM webhook AS w JOIN agent AS a ON a.id = w.created_by
 WHERE w.status = 'active' AND a.status = 'active' AND a.deleted_at IS NULL
 ORDER BY w.id
   FOR KEY SHARE OF w;

-- name: fresh
-- What was committed between two snapshots under these keys, in the order of the outbox. What is
-- said about webhooks is told to none: it would have no end.
SELECT seq, occurred_at, topic, task_id, run_id, subject, data,
       (SELECT created_by FROM task AS t WHERE t.id = e.task_id)
  FROM fact AS e
 WHERE (xid >= pg_snapshot_xmax(%(snapshot)s::pg_snapshot)
        OR xid = ANY(ARRAY(SELECT pg_snapshot_xip(%(snapshot)s::pg_snapshot))))
   AND pg_visible_in_snapshot(xid, %(target)s::pg_snapshot)
   AND seq > %(after)s
   AND (topic = ANY(%(keys)s) OR '*' || cardinality(string_to_array(topic, '.')) = ANY(%(keys)s))
   AND topic NOT LIKE 'webhook.%%'
 ORDER BY seq LIMIT %(limit)s;

-- name: add
-- Put deliveries on their way, each event once for each webhook.
INSERT INTO webhook_delivery (id, webhook_id, event_seq, topic, body, next_attempt_at, created_at)
SELECT id, webhook_id, event_seq, topic, body, coalesce(%(now)s, now()), coalesce(%(now)s, now())
  FROM unnest(%(ids)s::uuid[], %(webhook_ids)s::uuid[], %(seqs)s::bigint[], %(topics)s::text[],
              %(bodies)s::text[]) AS given (id, webhook_id, event_seq, topic, body)
    ON CONFLICT ON CONSTRAINT webhook_delivery_once DO NOTHING
RETURNING id;

-- name: due
-- Whether any delivery may be due: cheap to ask, several times a second.
SELECT EXISTS (SELECT FROM webhook_delivery
                WHERE status = 'pending' AND next_attempt_at <= coalesce(%(now)s, now()));

-- name: claim
-- Take deliveries that are due for the time of a lease. A webhook gets as many at a time as it has
-- room for: what is under way (busy, taken) counts, and one that fails gets one. Which comes first
-- is left to chance, so that none waits for ever behind slow ones.
WITH room AS (
    SELECT w.id, w.url,
           CASE WHEN w.failing_since IS NULL THEN %(share)s ELSE 1 END - coalesce(b.taken, 0) AS free
      FROM webhook AS w
      JOIN agent AS a ON a.id = w.created_by AND a.status = 'active' AND a.deleted_at IS NULL
      LEFT JOIN unnest(%(busy)s::uuid[], %(taken)s::integer[]) AS b (id, taken) ON b.id = w.id
     WHERE w.status = 'active'
       AND EXISTS (SELECT FROM webhook_delivery AS d
                    WHERE d.webhook_id = w.id AND d.status = 'pending'
                      AND d.next_attempt_at <= coalesce(%(now)s, now()))
     ORDER BY random()
), chosen AS (
    SELECT due.id, room.url
      FROM room
     CROSS JOIN LATERAL (
           SELECT d.id
             FROM webhook_delivery AS d
            WHERE d.webhook_id = room.id AND d.status = 'pending'
              AND d.next_attempt_at <= coalesce(%(now)s, now())
            ORDER BY d.next_attempt_at, d.id
            LIMIT greatest(room.free, 0)
              FOR NO KEY UPDATE SKIP LOCKED) AS due
     LIMIT %(limit)s
)
UPDATE webhook_delivery AS d
   SET lease_token = d.lease_token + 1, next_attempt_at = coalesce(%(now)s, now()) + %(lease)s
  FROM chosen
 WHERE d.id = chosen.id
RETURNING d.id, d.lease_token, d.webhook_id, chosen.url, d.attempts, d.body,
          coalesce(%(now)s, now());

-- name: settle
-- Write down what came of attempts that still have their lease. What an address said that is not
-- the webhook's any more does not count, except that it took the delivery: the next attempt asks
-- the new one. Not "status is pending", which is the same: the planner would read the index of all
-- that are, and not these by their ids.
UPDATE webhook_delivery AS d
   SET status = s.status, attempts = d.attempts + 1, response_status = s.code, error = s.error,
       next_attempt_at = coalesce(coalesce(%(now)s, now()) + s.pause, d.next_attempt_at),
       attempted_at = coalesce(%(now)s, now()),
       finished_at = CASE WHEN s.status <> 'pending' THEN coalesce(%(now)s, now()) END
  FROM unnest(%(ids)s::uuid[], %(tokens)s::integer[], %(urls)s::text[], %(statuses)s::text[],
              %(codes)s::integer[], %(errors)s::text[], %(pauses)s::interval[])
       AS s (id, token, url, status, code, error, pause)
 WHERE d.id = ANY(%(ids)s::uuid[]) AND d.id = s.id
   AND d.lease_token = s.token AND d.finished_at IS NULL
   AND (s.status = 'delivered' OR s.url = (SELECT url FROM webhook WHERE id = d.webhook_id))
RETURNING d.id, d.webhook_id;

-- name: release
-- Give back what was not attempted; no attempt is spent.
UPDATE webhook_delivery AS d
   SET next_attempt_at = now()
  FROM unnest(%(ids)s::uuid[], %(tokens)s::integer[]) AS s (id, token)
 WHERE d.id = ANY(%(ids)s::uuid[]) AND d.id = s.id
   AND d.lease_token = s.token AND d.finished_at IS NULL;

-- name: judge
-- Note since when a webhook fails; an attempt that succeeds ends that.
UPDATE webhook AS w
   SET failing_since = CASE WHEN held.ok THEN NULL ELSE coalesce(%(now)s, now()) END
  FROM (SELECT w.id, s.ok
          FROM webhook AS w
          JOIN unnest(%(ids)s::uuid[], %(oks)s::boolean[]) AS s (id, ok) ON s.id = w.id
         WHERE s.ok = (w.failing_since IS NOT NULL)
         ORDER BY w.id
           FOR NO KEY UPDATE OF w) AS held
 WHERE w.id = held.id;

-- name: disable
-- End webhooks whose address is gone, or has failed for too long.
UPDATE webhook AS w
   SET status = 'disabled', updated_at = coalesce(%(now)s, now()),
       reason = CASE WHEN held.gone THEN 'gone: the address answered 410'
                     ELSE 'failing: no delivery succeeded for ' || extract(day FROM %(patience)s)
                          || ' days' END
  FROM (SELECT w.id, w.id = ANY(%(gone)s::uuid[]) AS gone
          FROM webhook AS w
         WHERE w.id = ANY(%(ids)s::uuid[]) AND w.status = 'active'
           AND (w.id = ANY(%(gone)s::uuid[])
                OR w.failing_since <= coalesce(%(now)s, now()) - %(patience)s)
         ORDER BY w.id
           FOR NO KEY UPDATE OF w) AS held
 WHERE w.id = held.id
RETURNING w.id, w.created_by, w.reason;

-- name: bury
-- What was on its way to webhooks that are disabled is a dead letter.
UPDATE webhook_delivery
   SET status = 'dead', finished_at = coalesce(%(now)s, now()),
       error = 'the webhook was disabled' || CASE WHEN error = '' THEN '' ELSE ' after: ' || error END
 WHERE webhook_id = ANY(%(webhook_ids)s::uuid[]) AND status = 'pending';

-- name: page
SELECT id, webhook_id, event_seq, topic, status, attempts, response_status, error, created_at,
       attempted_at, finished_at, CASE WHEN status = 'pending' THEN next_attempt_at END
  FROM webhook_delivery
 WHERE webhook_id = %(webhook_id)s
   AND (%(status)s::text IS NULL OR status = %(status)s)
   AND (%(before)s::uuid IS NULL OR id < %(before)s)
 ORDER BY id DESC
 LIMIT %(limit)s;

-- name: get
SELECT id, webhook_id, event_seq, topic, status, attempts, response_status, error, created_at,
       attempted_at, finished_at, CASE WHEN status = 'pending' THEN next_attempt_at END
  FROM webhook_delivery
 WHERE webhook_id = %(webhook_id)s AND id = %(id)s;

-- name: redeliver
-- Begin again with a delivery, at once; an attempt under way loses its lease.
UPDATE webhook_delivery
   SET status = 'pending', attempts = 0, next_attempt_at = now(), finished_at = NULL,
       lease_token = lease_token + 1
 WHERE webhook_id = %(webhook_id)s AND id = %(id)s
RETURNING id, webhook_id, event_seq, topic, status, attempts, response_status, error, created_at,
          attempted_at, finished_at, next_attempt_at;
