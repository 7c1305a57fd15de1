-- Runs without an occurrence share a key, and entries live for moments: to merge them costs a
-- fifth of each lease and saves no room.
ALTER INDEX due_work_occurrence_unique SET (deduplicate_items = off);
