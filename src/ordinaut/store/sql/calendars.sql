-- name: definitions
-- What those of the calendars say that exist.
SELECT name, definition FROM calendar WHERE name = ANY(%(names)s);
