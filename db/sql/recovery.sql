-- What backups and restores ask and do; never within a request of the API. They are of all tables that there are, an identity
-- provider's too, so names of tables are values here, which the blocks `content` and `sequences` put in. A block takes and
-- gives nothing: `subject` before it and `system.found` behind it do, by settings of the transaction.

-- name: origin
-- kind: read
-- takes:
-- rides on:
-- The snapshot of this transaction for pg_dump to see by, and whose it is. As the first statement of a repeatable read.
select pg_export_snapshot() as snapshot, current_timestamp as taken_at, current_database()::text as database,
    split_part(current_setting('server_version'), ' ', 1) as server

-- name: server
-- kind: read
-- takes:
-- rides on:
-- The server's version.
select split_part(current_setting('server_version'), ' ', 1) as server

-- name: tables
-- kind: read
-- takes:
-- rides on:
-- Every table that has rows of its own, quoted and with its schema.
select format('%I.%I', n.nspname, c.relname) as name
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
where c.relkind = 'r'
  and c.relpersistence <> 't'
  and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
  and not exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'e')
order by 1

-- name: objects
-- kind: read
-- takes:
-- rides on:
-- What there is besides rows, by kind and name: definitions are worded differently from version to version. What belongs to
-- an extension is the extension's.
with own as (
    select n.oid, n.nspname
    from pg_namespace n
    where n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
),
things as (
    select case c.relkind when 'i' then 'index' when 'I' then 'index' when 'S' then 'sequence' when 'v' then 'view'
            when 'm' then 'materialized view' else 'table' end as kind,
        o.nspname, c.relname::text as name, c.oid, c.tableoid as catalogue
    from pg_class c
    join own o on o.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'f', 'i', 'I', 'S', 'v', 'm')
    union all
    select 'constraint', o.nspname, format('%s.%s', c.relname, k.conname), k.oid, k.tableoid
    from pg_constraint k
    join pg_class c on c.oid = k.conrelid
    join own o on o.oid = k.connamespace
    where k.contype in ('p', 'u', 'x', 'c', 'f')
    union all
    select case g.tgenabled when 'D' then 'disabled trigger' else 'trigger' end,
        o.nspname, format('%s.%s', c.relname, g.tgname), g.oid, g.tableoid
    from pg_trigger g
    join pg_class c on c.oid = g.tgrelid
    join own o on o.oid = c.relnamespace
    where not g.tgisinternal
    union all
    select 'function', o.nspname, format('%s(%s)', p.proname, pg_get_function_identity_arguments(p.oid)), p.oid, p.tableoid
    from pg_proc p
    join own o on o.oid = p.pronamespace
    union all
    select 'type', o.nspname, t.typname::text, t.oid, t.tableoid
    from pg_type t
    join own o on o.oid = t.typnamespace
    left join pg_class c on c.oid = t.typrelid
    where t.typtype in ('d', 'e', 'r') or c.relkind = 'c'
)
select concat(t.kind, ' ', nullif(t.nspname, 'public') || '.', t.name) as name
from things t
where not exists (
    select from pg_depend d where d.objid = t.oid and d.classid = t.catalogue and d.deptype = 'e')
order by 1

-- name: subject
-- kind: read
-- takes: name text
-- rides on:
-- Names the table that `content` looks at, in this transaction, in which values are written as text in one way only.
select concat_ws(', ',
    set_config('roundtrip.subject', $1, true),
    set_config('timezone', 'UTC', true),
    set_config('datestyle', 'ISO, YMD', true),
    set_config('intervalstyle', 'postgres', true),
    set_config('bytea_output', 'hex', true),
    set_config('extra_float_digits', '1', true)) as settings

-- name: content
-- kind: read
-- takes:
-- rides on:
-- Counts the rows of the subject, and adds up a SHA-256 of each, 128 bits of it: the same for the same rows in any order, the
-- memory flat, and two equal rows do not cancel out. All columns, whichever they are.
do $$
declare
    answer text;
begin
    execute format($sql$
        select json_build_object('table', %L, 'rows', count(*), 'digest', encode(sha256(convert_to(concat_ws(' ',
            count(*),
            sum(('x' || substr(hash, 1, 16))::bit(64)::bigint),
            sum(('x' || substr(hash, 17, 16))::bit(64)::bigint)), 'UTF8')), 'hex'))
        from (select encode(sha256(convert_to(whole_row::text, 'UTF8')), 'hex') as hash from only %s whole_row) hashed
    $sql$, current_setting('roundtrip.subject'), current_setting('roundtrip.subject')) into answer;
    perform set_config('roundtrip.found', answer, true);
end
$$

-- name: sequences
-- kind: read
-- takes:
-- rides on:
-- Each identity or serial column with the number its sequence gives next and the largest it has, null for none.
do $$
declare
    own record;
    highest bigint;
    answer jsonb := '[]';
begin
    for own in
        select format('%I.%I', n.nspname, c.relname) as table_name, a.attname,
            coalesce(s.last_value + s.increment_by, s.start_value) as next_value
        from pg_class c
        join pg_namespace n on n.oid = c.relnamespace
        join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        join pg_class q on q.oid = pg_get_serial_sequence(format('%I.%I', n.nspname, c.relname), a.attname)::regclass
        join pg_namespace m on m.oid = q.relnamespace
        join pg_sequences s on s.schemaname = m.nspname and s.sequencename = q.relname
        where c.relkind in ('r', 'p') and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
        order by 1, 2
    loop
        execute format('select max(%I) from %s', own.attname, own.table_name) into highest;
        answer := answer || jsonb_build_object('column', own.table_name || '.' || own.attname,
            'next', own.next_value, 'highest', highest);
    end loop;
    perform set_config('roundtrip.found', answer::text, true);
end
$$

-- name: advance
-- kind: write
-- takes: beyond text, size bigint, jump bigint, end_sessions boolean
-- rides on:
-- After the database was taken back in time: the revisions of `size` users from `beyond` on move by `jump` past all that was
-- ever given out, and so do the versions of their conversations; tombstones before are as good as purged. Their sessions end,
-- for one that was ended since would live again. Users by id, then the rest: so it waits for writers and they for it, no
-- longer than a batch takes.
with due as (
    select us.user_id
    from user_state us
    where us.user_id >= $1
    order by us.user_id
    limit $2
    for no key update of us
),
stamp as (
    update user_state us
    set revision = us.revision + $3, purged_revision = us.revision + $3,
        conversations_revision = us.conversations_revision + $3,
        tokens_valid_from = case when $4 then greatest(statement_timestamp(), us.tokens_valid_from)
            else us.tokens_valid_from end
    from due d
    where us.user_id = d.user_id
    returning us.user_id
),
talks as (
    update conversations c
    set version = c.version + $3
    from stamp s
    where c.user_id = s.user_id
),
ended as (
    update sessions e
    set revoked_at = statement_timestamp()
    from stamp s
    where $4 and e.user_id = s.user_id and e.revoked_at is null
)
select max(s.user_id) as last, count(*) as users
from stamp s

-- name: skip_ids
-- kind: write
-- takes: jump bigint
-- rides on:
-- The ids of rows to come jump too: one that a client remembers from the time that was lost must never name another row.
-- Sequences know no transaction: this is not undone with it.
select count(setval(q.oid::regclass, nextval(q.oid::regclass) + $1)) as sequences
from pg_sequence s
join pg_class q on q.oid = s.seqrelid
join pg_depend d on d.objid = q.oid and d.classid = 'pg_class'::regclass and d.deptype = 'i'
where q.relnamespace = 'public'::regnamespace and s.seqtypid = 'bigint'::regtype

-- name: mark
-- kind: write
-- takes: schema text
-- rides on:
-- Gives a restored database the revision of its schema, without which no service starts on it.
insert into alembic_version (version_num)
values ($1)
returning version_num

-- name: analyze
-- kind: read
-- takes:
-- rides on:
-- Statistics, which a dump does not carry.
analyze
