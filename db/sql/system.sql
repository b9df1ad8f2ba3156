-- What the service asks about the database itself, never within a request of the API.

-- name: state
-- kind: read
-- takes:
-- rides on:
-- The schema's revision and how many connections the server has for clients.
select (select a.version_num from alembic_version a limit 1) as schema,
    current_setting('max_connections')::int
        - current_setting('superuser_reserved_connections')::int as connections

-- name: found
-- kind: read
-- takes:
-- rides on:
-- The JSON that a block (`do`) before it in this transaction left in `roundtrip.found`.
select current_setting('roundtrip.found', true) as found
