-- A run that ends says several things at once: it started, its steps succeeded, it succeeded. They
-- go into one row, because what costs is the row and its places in the indexes. The last event
-- is the row itself; earlier holds those before it as [topic, data], at the places just below.
ALTER TABLE event ADD COLUMN earlier jsonb;
DO $$
DECLARE
    highest bigint := (SELECT CASE WHEN is_called THEN last_value ELSE -1000 END
                         FROM event_seq_seq);
BEGIN
    EXECUTE format('ALTER TABLE event ALTER COLUMN seq SET INCREMENT BY 1000 RESTART WITH %s',
                   (highest / 1000 + 2) * 1000);
END
$$;

-- Every event by itself. place is where the row lies in the index; seq <= place < seq + 1000.
CREATE VIEW fact AS
SELECT e.xid, e.seq AS place, e.seq - said.back AS seq, e.occurred_at, said.topic, e.task_id,
       e.run_id, e.subject, said.data
  FROM event AS e
 CROSS JOIN LATERAL (
       SELECT 0 AS back, e.topic, e.data
       UNION ALL
       SELECT (jsonb_array_length(e.earlier) - nth + 1)::integer, one ->> 0, one -> 1
         FROM jsonb_array_elements(e.earlier) WITH ORDINALITY AS earlier (one, nth)) AS said;
