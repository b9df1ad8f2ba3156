-- What `roundtrip doctor` looks at; never within a request of the API. Everything here may be asked by a plain role, and shows
-- it what it may see.

-- name: ping
-- kind: read
-- takes:
-- rides on:
-- A round trip.
select 1 as pong

-- name: clock
-- kind: read
-- takes:
-- rides on:
-- The server's clock.
select clock_timestamp() as now

-- name: server
-- kind: read
-- takes:
-- rides on:
-- The server and its limits. A limit of a role or database is -1 where there is none; `read_only` is a standby.
select split_part(current_setting('server_version'), ' ', 1) as version,
    current_setting('max_connections')::int as max_connections,
    current_setting('superuser_reserved_connections')::int
        + coalesce(current_setting('reserved_connections', true), '0')::int as reserved,
    r.rolconnlimit as role_limit, d.datconnlimit as database_limit,
    (select sum(s.numbackends)::int from pg_stat_database s) as used,
    age(d.datfrozenxid) as xid_age,
    pg_is_in_recovery() as read_only,
    current_setting('session_replication_role') as replication_role,
    concat_ws(', ',
        case when current_setting('fsync') = 'off' then 'fsync' end,
        case when current_setting('full_page_writes') = 'off' then 'full_page_writes' end,
        case when current_setting('synchronous_commit') = 'off' then 'synchronous_commit' end) as careless,
    current_setting('autovacuum') = 'on' and current_setting('track_counts') = 'on' as vacuums
from pg_database d, pg_roles r
where d.datname = current_database() and r.rolname = current_user

-- name: role
-- kind: read
-- takes:
-- rides on:
-- What the role may do that serving does not need, and whether it sees what others do.
select current_user::text as name,
    concat_ws(', ', case when r.rolsuper then 'superuser' end, case when r.rolbypassrls then 'bypassrls' end,
        case when r.rolcreaterole then 'createrole' end, case when r.rolcreatedb then 'createdb' end,
        case when r.rolreplication then 'replication' end) as powers,
    concat_ws(', ',
        case when has_schema_privilege('public', 'create') then 'create tables' end,
        case when exists (
            select from pg_class c
            where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and pg_has_role(c.relowner, 'usage'))
        then 'alter and drop the tables' end) as ddl,
    pg_has_role('pg_read_all_stats', 'usage') as sees_all
from pg_roles r
where r.rolname = current_user

-- name: transactions
-- kind: read
-- takes:
-- rides on:
-- Transactions open for long, in this database: vacuum removes nothing that the oldest may still see. `hidden`: sessions of
-- others that this role may not look into.
select count(*) filter (where a.xact_start < now() - interval '1 hour')::int as long,
    count(*) filter (where a.state like 'idle in transaction%' and a.state_change < now() - interval '5 minutes')::int as idle,
    (select count(*)::int from pg_prepared_xacts p where p.prepared < now() - interval '1 hour') as prepared,
    (select count(*)::int from pg_replication_slots s where not s.active) as slots,
    count(*) filter (where a.query = '<insufficient privilege>')::int as hidden
from pg_stat_activity a
where a.datname = current_database() and a.pid <> pg_backend_pid()

-- name: indexes
-- kind: read
-- takes:
-- rides on:
-- Every index of our tables, whether it is whole, how often it was used since the statistics began, and the rows of its table.
select i.relname::text as name, c.relname::text as table_name, x.indisvalid and x.indisready as is_valid,
    x.indisunique as is_unique, coalesce(s.idx_scan, 0) as scans, c.reltuples::float8 as rows
from pg_index x
join pg_class i on i.oid = x.indexrelid
join pg_class c on c.oid = x.indrelid
left join pg_stat_user_indexes s on s.indexrelid = x.indexrelid
where c.relnamespace = 'public'::regnamespace
order by i.relname

-- name: unindexed
-- kind: read
-- takes:
-- rides on:
-- Foreign keys that no index begins with: deleting what they point at scans their table.
select k.conname::text as name, c.relname::text as table_name
from pg_constraint k
join pg_class c on c.oid = k.conrelid
where k.contype = 'f'
  and c.relnamespace = 'public'::regnamespace
  and not exists (
    select from pg_index x
    where x.indrelid = k.conrelid and x.indisvalid and x.indpred is null
      and (string_to_array(x.indkey::text, ' ')::int2[])[1:cardinality(k.conkey)] @> k.conkey)
order by k.conname

-- name: constraints
-- kind: read
-- takes:
-- rides on:
-- The constraints, and whether all rows are known to keep them.
select k.conname::text as name, k.convalidated as is_valid
from pg_constraint k
join pg_class c on c.oid = k.conrelid
where c.relnamespace = 'public'::regnamespace and k.contype in ('p', 'u', 'x', 'c', 'f')
order by k.conname

-- name: triggers
-- kind: read
-- takes:
-- rides on:
-- The triggers, by the name of the constraint where they hold up one, and whether they fire.
select coalesce(k.conname, g.tgname)::text as name, bool_and(g.tgenabled in ('O', 'A')) as fires
from pg_trigger g
join pg_class c on c.oid = g.tgrelid
left join pg_constraint k on k.oid = g.tgconstraint
where c.relnamespace = 'public'::regnamespace
group by 1
order by 1

-- name: tables
-- kind: read
-- takes:
-- rides on:
-- Rows alive and dead, when each table was last vacuumed and analyzed, and the age of its oldest row in transactions.
select s.relname::text as name, s.n_live_tup as live, s.n_dead_tup as dead,
    greatest(s.last_vacuum, s.last_autovacuum) as vacuumed,
    greatest(s.last_analyze, s.last_autoanalyze) as analyzed,
    age(c.relfrozenxid) as xid_age
from pg_stat_user_tables s
join pg_class c on c.oid = s.relid
where s.schemaname = 'public'
order by s.relname

-- name: slow
-- kind: read
-- takes:
-- rides on:
-- The statements that cost most of those that are slow on average, by pg_stat_statements, which may not be there, not be
-- loaded, or not be ours to read: then `seen` says which.
do $$
declare
    place text;
    answer jsonb;
begin
    select format('%I.pg_stat_statements', n.nspname) into place
    from pg_extension e
    join pg_namespace n on n.oid = e.extnamespace
    where e.extname = 'pg_stat_statements';
    if place is null then
        answer := jsonb_build_object('seen', 'absent');
    else
        execute format($sql$
            select jsonb_build_object('seen', 'yes', 'statements', coalesce(jsonb_agg(q), '[]'))
            from (
                select s.query, s.calls, s.mean_exec_time as mean, s.max_exec_time as longest
                from %s s
                where s.dbid = (select d.oid from pg_database d where d.datname = current_database())
                  and s.mean_exec_time >= 100 and s.calls >= 5
                order by s.total_exec_time desc
                limit 5
            ) q
        $sql$, place) into answer;
    end if;
    perform set_config('roundtrip.found', answer::text, true);
exception
    when object_not_in_prerequisite_state then
        perform set_config('roundtrip.found', '{"seen": "unloaded"}', true);
    when insufficient_privilege then
        perform set_config('roundtrip.found', '{"seen": "denied"}', true);
end
$$
