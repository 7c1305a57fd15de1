-- name: seize
-- Take a duty that is free, or go on with our own. Each new holding has a higher epoch.
UPDATE leader
   SET epoch = epoch + (holder IS DISTINCT FROM %(holder)s OR until < clock_timestamp())::integer,
       holder = %(holder)s, until = clock_timestamp() + %(lease)s
 WHERE name = %(name)s AND (holder = %(holder)s OR until < clock_timestamp())
RETURNING epoch;

-- name: resign
-- Give a duty back so that another need not wait.
UPDATE leader
   SET holder = NULL, until = '-infinity'
 WHERE name = %(name)s AND holder = %(holder)s AND epoch = %(epoch)s;

-- name: confirm
-- Whether a holding still counts; the lock keeps it so until commit.
SELECT true FROM leader
 WHERE name = %(name)s AND epoch = %(epoch)s AND until >= clock_timestamp()
   FOR SHARE;

-- name: guard
-- Free the locks of a process that froze: its session ends, and the transaction with it.
SELECT set_config('idle_in_transaction_session_timeout', %(stall)s, true);
