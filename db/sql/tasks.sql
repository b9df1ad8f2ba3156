-- Tasks. Every statement begins with the caller: no row at all means 401.
-- Writes lock user_state, then the task, and decide from what they locked (see ARCHITECTURE.md, "The way of a write").

-- name: list
-- kind: read
-- each: scope live trash, rows plain filtered searched, sort created_at updated_at due_date priority title status, way asc desc, total without counted
-- takes: user_id text, sid uuid, revision bigint, until bigint, skip bigint, size bigint, after text, after_id bigint{rows_takes}
-- rides on: {rows_index}, sessions_pkey, user_state_pkey
-- A page of tasks with the revision it was read at: beyond (`after`, `after_id`), past `skip` rows, `size` at most. They come as
-- lines of JSON, in one row: as columns they cost the client twice as much. Then where the last but one of a full page stands.
-- Nothing is read, and `fresh` is false, where `revision` is still the user's and `until` is not over: microseconds since 1970 at
-- which time alone changes the list, null for never.
-- The user is $1 and not the caller's column, for the planner knows how many tasks a given user has.
-- `q`: every word, a run of letters and digits, begins one of title or description. Searched are the texts of the user's
-- tasks, side by side in an index, until there are hits for four pages; for more than those the list is walked in its own
-- order, where a page is soon full. A case keeps the planner from thinking that few rows match, for which it would give up that order.
with {caller}{rows_with}
select c.revision, {unknown} as fresh, {total} as total, {rows_until} as until,
    l.lines, l.position, l.last_id
from caller c
cross join lateral (
    select string_agg({line p}, e'\n' order by {sort p} {way}, p.id {way}) as lines,
        (array_agg({sort p} order by {sort p} {way}, p.id {way}))[$6 - 1]::text as position,
        (array_agg(p.id order by {sort p} {way}, p.id {way}))[$6 - 1] as last_id
    from (
    {rows_page}
    ) p
) l

-- name: list_live_plain_created_at_desc_without_each
-- kind: read
-- takes: user_ids text[], sids uuid[], revisions bigint[], untils bigint[], skips bigint[], sizes bigint[], afters text[], after_ids bigint[]
-- rides on: tasks_user_id_created_at_id_idx, sessions_pkey, user_state_pkey
-- The list that every client opens with, for many requests at once, as `get_each`.
select r.ord, false as alone, c.revision, {unknown_each} as fresh, null::bigint as total, null::bigint as until,
    l.lines, l.position, l.last_id
from unnest((select $1::text[]), (select $2::uuid[]), (select $3::bigint[]), (select $4::bigint[]), (select $5::bigint[]),
        (select $6::bigint[]), (select $7::text[]), (select $8::bigint[]))
    with ordinality as r (user_id, sid, revision, until, skip, size, after, after_id, ord)
cross join lateral (
    {caller_each}
) c
cross join lateral (
    select string_agg({line p}, e'\n' order by p.created_at desc, p.id desc) as lines,
        (array_agg(p.created_at order by p.created_at desc, p.id desc))[r.size - 1]::text as position,
        (array_agg(p.id order by p.created_at desc, p.id desc))[r.size - 1] as last_id
    from (
        select {stored t}
        from tasks t
        where t.user_id = r.user_id and t.deleted_at is null and {unknown_each}
          and (t.created_at, t.id) < (r.after::timestamptz, r.after_id)
        order by t.created_at desc, t.id desc
        limit r.size offset r.skip
    ) p
) l

-- name: stats
-- kind: read
-- takes: user_id text, sid uuid, revision bigint, until bigint, tz text
-- rides on: tasks_user_id_revision_idx, sessions_pkey, user_state_pkey
-- Counts over the live tasks, and of the trash, with the revision they hold at and until when: the next task to become
-- overdue, or the end of the day in `tz`. Nothing is counted where `revision` and `until` still hold.
with {caller}
select c.revision as stats_revision, {unknown} as counted, n.until,
    n.total, n.pending, n.in_progress, n.completed, n.overdue, n.due_today, n.trashed,
    n.priority_1, n.priority_2, n.priority_3, n.priority_4, n.priority_5
from caller c
left join lateral (
    select
        (extract(epoch from least(
            min(t.due_date) filter (where t.deleted_at is null and t.status <> 'completed' and t.due_date >= now()),
            (date_trunc('day', now() at time zone $5) + interval '1 day') at time zone $5 - interval '1 microsecond'))
            * 1000000)::bigint as until,
        count(*) filter (where t.deleted_at is null) as total,
        count(*) filter (where t.deleted_at is null and t.status = 'pending') as pending,
        count(*) filter (where t.deleted_at is null and t.status = 'in_progress') as in_progress,
        count(*) filter (where t.deleted_at is null and t.status = 'completed') as completed,
        count(*) filter (where t.deleted_at is null and {overdue}) as overdue,
        count(*) filter (where t.deleted_at is null
            and (t.due_date at time zone $5)::date = (now() at time zone $5)::date) as due_today,
        count(*) filter (where t.deleted_at is not null) as trashed,
        count(*) filter (where t.deleted_at is null and t.priority = 1) as priority_1,
        count(*) filter (where t.deleted_at is null and t.priority = 2) as priority_2,
        count(*) filter (where t.deleted_at is null and t.priority = 3) as priority_3,
        count(*) filter (where t.deleted_at is null and t.priority = 4) as priority_4,
        count(*) filter (where t.deleted_at is null and t.priority = 5) as priority_5
    from tasks t
    where t.user_id = $1 and {unknown}
) n on true

-- name: get
-- kind: read
-- takes: user_id text, sid uuid, task_id bigint
-- rides on: tasks_pkey, sessions_pkey, user_state_pkey
-- One live task. As a line of JSON, for as columns it costs the client more than PostgreSQL saves; no revision: no such task.
with {caller}
select t.revision, {line t} as line
from caller c
left join tasks t on t.id = $3 and t.user_id = c.user_id and t.deleted_at is null

-- name: get_each
-- kind: read
-- takes: user_ids text[], sids uuid[], task_ids bigint[]
-- rides on: tasks_pkey, sessions_pkey, user_state_pkey
-- `get` for many requests at once: a row for each whose caller is alive, by its number. How many there are is hidden from the
-- planner, who would plan anew for every few; the limits keep him from reading tables whole for more.
select r.ord, false as alone, t.revision, {line t} as line
from unnest((select $1::text[]), (select $2::uuid[]), (select $3::bigint[])) with ordinality as r (user_id, sid, task_id, ord)
cross join lateral (
    {caller_each}
) c
left join lateral (
    select {stored t}
    from tasks t
    where t.id = r.task_id and t.user_id = c.user_id and t.deleted_at is null
    limit 1
) t on true

-- name: create
-- kind: write
-- takes: user_id text, sid uuid, title text, description text, status text, priority smallint, due_date timestamptz
-- rides on: sessions_pkey, user_state_pkey
-- A new task. The lean write: stamping is its lock, and nobody else can see the row before it commits.
with stamp as (
    update user_state us
    set revision = us.revision + 1
    from sessions s
    where {alive}
    returning us.user_id, us.revision
)
insert into tasks as t (user_id, title, description, status, priority, due_date, completed_at, revision)
select s.user_id, $3, $4, $5, $6, {edge $7}, case when $5 = 'completed' then now() end, s.revision
from stamp s
returning {task t}

-- name: create_each
-- kind: write
-- takes: user_ids text[], sids uuid[], titles text[], descriptions text[], statuses text[], priorities smallint[], due_dates timestamptz[]
-- rides on: sessions_pkey, user_state_pkey
-- `create` for many requests at once, of one user or of many: a row for each whose caller is alive, by its number. Users
-- are locked in order, and whoever is held elsewhere holds up nobody: `alone` says that the request has to go by itself.
-- Ids are drawn and revisions counted first, for an insert promises no order. How many there are is hidden, as in `get_each`.
with asked as (
    select r.ord, r.user_id, r.title, r.description, r.status, r.priority, r.due_date
    from unnest((select $1::text[]), (select $2::uuid[]), (select $3::text[]), (select $4::text[]), (select $5::text[]),
            (select $6::smallint[]), (select $7::timestamptz[]))
        with ordinality as r (user_id, sid, title, description, status, priority, due_date, ord)
    join sessions s on {each_alive}
),
{each_locked},
drawn as materialized (
    select a.ord, nextval((select pg_get_serial_sequence('tasks', 'id')::regclass)) as id,
        a.user_id, a.title, a.description, a.status, a.priority, a.due_date,
        l.revision + row_number() over (partition by a.user_id order by a.ord) as revision
    from asked a
    join locked l on l.user_id = a.user_id and l.is_active
    order by a.ord
),
stamp as (
    update user_state us
    set revision = d.revision
    from (select d.user_id, max(d.revision) as revision from drawn d group by d.user_id) d
    where us.user_id = d.user_id
    returning us.user_id
),
made as (
    insert into tasks as t (id, user_id, title, description, status, priority, due_date, completed_at, revision)
    select d.id, d.user_id, d.title, d.description, d.status, d.priority, {edge d.due_date},
        case when d.status = 'completed' then now() end, d.revision
    from drawn d
    join stamp s on s.user_id = d.user_id
    returning {stored t}
)
select a.ord, l.user_id is null as alone, {task t}
from asked a
left join locked l on l.user_id = a.user_id
left join drawn d on d.ord = a.ord
left join made t on t.id = d.id
where l.user_id is null or t.id is not null

-- name: create_once
-- kind: keyed
-- takes: user_id text, sid uuid, route text, key text, fingerprint bytea, title text, description text, status text, priority smallint, due_date timestamptz
-- rides on: sessions_pkey, user_state_pkey
-- A new task under an idempotency key. Requests with the same key wait for each other on the user's state, then answer alike.
with {caller_locked},
drafted as (
    select nextval('tasks_id_seq') as id, c.user_id, $6::text as title, $7::text as description, $8::text as status,
        $9::smallint as priority, {edge $10} as due_date, statement_timestamp() as created_at,
        statement_timestamp() as updated_at, case when $8 = 'completed' then statement_timestamp() end as completed_at,
        null::timestamptz as deleted_at, c.revision + 1 as revision
    from caller c
),
draft as (
    select 201 as status, ({json d})::text as result from drafted d
),
{kept},
{stamp_won},
done as (
    insert into tasks as t (id, user_id, title, description, status, priority, due_date, created_at, updated_at,
        completed_at, revision)
    select d.id, d.user_id, d.title, d.description, d.status, d.priority, d.due_date, d.created_at, d.updated_at,
        d.completed_at, s.revision
    from drafted d, stamp s
)
select {holds}
from kept k

-- name: update
-- kind: write
-- takes: user_id text, sid uuid, task_id bigint, if_match text, set_title boolean, title text, set_description boolean, description text, set_status boolean, status text, set_priority boolean, priority smallint, set_due_date boolean, due_date timestamptz, reopen boolean
-- rides on: tasks_pkey, sessions_pkey, user_state_pkey
-- Merge patch of a live task: a field whose `set_` is false stays. `reopen` makes a completed task pending and leaves another.
-- `if_match`: revisions that the task may have, with commas, null for any. What changes nothing moves no revision.
with {caller_locked},
old as (
    select {stored t}
    from caller c
    join tasks t on t.user_id = c.user_id
    where t.id = $3 and t.deleted_at is null
    for no key update of t
),
new as (
    select o.id,
        case when $5 then $6::text else o.title end as title,
        case when $7 then $8::text else o.description end as description,
        case when $9 then $10::text
             when $15 and o.status = 'completed' then 'pending'
             else o.status end as status,
        case when $11 then $12::smallint else o.priority end as priority,
        case when $13 then {edge $14} else o.due_date end as due_date
    from old o
    where {matching}
),
changed as (
    select n.id, n.title, n.description, n.status, n.priority, n.due_date
    from new n
    join old o on o.id = n.id
    where (n.title, n.description, n.status, n.priority, n.due_date)
        is distinct from (o.title, o.description, o.status, o.priority, o.due_date)
),
{stamp},
done as (
    update tasks t
    set title = ch.title, description = ch.description, status = ch.status, priority = ch.priority,
        due_date = ch.due_date, revision = s.revision, updated_at = {now},
        completed_at = case when ch.status = 'completed' then coalesce(t.completed_at, {now}) end
    from changed ch, stamp s
    where t.id = ch.id
    returning {stored t}
),
{answer}
select {verdict}, {task a}
{steps}
left join answer a on true

-- name: update_each
-- kind: write
-- takes: user_ids text[], sids uuid[], task_ids bigint[], if_matches text[], set_titles boolean[], titles text[], set_descriptions boolean[], descriptions text[], set_statuses boolean[], statuses text[], set_priorities boolean[], priorities smallint[], set_due_dates boolean[], due_dates timestamptz[], reopens boolean[]
-- rides on: tasks_pkey, sessions_pkey, user_state_pkey
-- `update` for many requests at once, as `create_each`; two requests about one task do not go together.
with asked as (
    select r.ord, r.user_id, r.task_id, r.if_match, r.set_title, r.title, r.set_description, r.description, r.set_status,
        r.status, r.set_priority, r.priority, r.set_due_date, r.due_date, r.reopen
    from unnest((select $1::text[]), (select $2::uuid[]), (select $3::bigint[]), (select $4::text[]),
            (select $5::boolean[]), (select $6::text[]), (select $7::boolean[]), (select $8::text[]),
            (select $9::boolean[]), (select $10::text[]), (select $11::boolean[]), (select $12::smallint[]),
            (select $13::boolean[]), (select $14::timestamptz[]), (select $15::boolean[]))
        with ordinality as r (user_id, sid, task_id, if_match, set_title, title, set_description, description, set_status,
            status, set_priority, priority, set_due_date, due_date, reopen, ord)
    join sessions s on {each_alive}
),
{each_locked},
{each_old},
new as (
    select o.ord, o.id, o.user_id,
        case when a.set_title then a.title else o.title end as title,
        case when a.set_description then a.description else o.description end as description,
        case when a.set_status then a.status
             when a.reopen and o.status = 'completed' then 'pending'
             else o.status end as status,
        case when a.set_priority then a.priority else o.priority end as priority,
        case when a.set_due_date then {edge a.due_date} else o.due_date end as due_date
    from old o
    join asked a on a.ord = o.ord
    where {each_matching}
),
changed as (
    select n.ord, n.id, n.user_id
    from new n
    join old o on o.ord = n.ord
    where (n.title, n.description, n.status, n.priority, n.due_date)
        is distinct from (o.title, o.description, o.status, o.priority, o.due_date)
),
{each_stamp},
done as (
    update tasks t
    set title = n.title, description = n.description, status = n.status, priority = n.priority, due_date = n.due_date,
        revision = d.revision, updated_at = {now},
        completed_at = case when n.status = 'completed' then coalesce(t.completed_at, {now}) end
    from drawn d
    join stamp s on s.user_id = d.user_id
    join new n on n.ord = d.ord
    where t.id = d.id
    returning {stored t}
),
answer as (
    select {stored d} from done d
    union all
    select {stored o} from old o where not exists (select from done d where d.id = o.id)
)
select a.ord, l.user_id is null or not r.first as alone, {verdict}, {task t}
{each_steps}
left join answer t on t.id = o.id
{each_there}

-- name: toggle
-- kind: write
-- takes: user_id text, sid uuid, task_id bigint, if_match text
-- rides on: tasks_pkey, sessions_pkey, user_state_pkey
-- Completed to pending, anything else to completed.
with {caller_locked},
old as (
    select t.id, t.revision
    from caller c
    join tasks t on t.user_id = c.user_id
    where t.id = $3 and t.deleted_at is null
    for no key update of t
),
new as (
    select o.id from old o where {matching}
),
changed as (
    select n.id from new n
),
{stamp},
done as (
    update tasks t
    set status = case when t.status = 'completed' then 'pending' else 'completed' end,
        completed_at = case when t.status = 'completed' then null else {now} end,
        revision = s.revision, updated_at = {now}
    from changed ch, stamp s
    where t.id = ch.id
    returning {stored t}
)
select {verdict}, {task d}
{steps}

-- name: toggle_each
-- kind: write
-- takes: user_ids text[], sids uuid[], task_ids bigint[], if_matches text[]
-- rides on: tasks_pkey, sessions_pkey, user_state_pkey
-- `toggle` for many requests at once, as `create_each`; two requests about one task do not go together.
with asked as (
    select r.ord, r.user_id, r.task_id, r.if_match
    from unnest((select $1::text[]), (select $2::uuid[]), (select $3::bigint[]), (select $4::text[]))
        with ordinality as r (user_id, sid, task_id, if_match, ord)
    join sessions s on {each_alive}
),
{each_locked},
{each_old},
new as (
    select o.ord, o.id, o.user_id from old o where {each_matching}
),
changed as (
    select n.ord, n.id, n.user_id from new n
),
{each_stamp},
done as (
    update tasks t
    set status = case when t.status = 'completed' then 'pending' else 'completed' end,
        completed_at = case when t.status = 'completed' then null else {now} end,
        revision = d.revision, updated_at = {now}
    from drawn d
    join stamp s on s.user_id = d.user_id
    where t.id = d.id
    returning {stored t}
)
select a.ord, l.user_id is null or not r.first as alone, {verdict}, {task d}
{each_steps}
{each_there}

-- name: delete
-- kind: write
-- takes: user_id text, sid uuid, task_id bigint, if_match text
-- rides on: tasks_pkey, sessions_pkey, user_state_pkey
-- A live task into the trash; its new revision is what a restore checks.
with {caller_locked},
old as (
    select t.id, t.revision
    from caller c
    join tasks t on t.user_id = c.user_id
    where t.id = $3 and t.deleted_at is null
    for no key update of t
),
new as (
    select o.id from old o where {matching}
),
changed as (
    select n.id from new n
),
{stamp},
done as (
    update tasks t
    set deleted_at = {now}, revision = s.revision, updated_at = {now}
    from changed ch, stamp s
    where t.id = ch.id
    returning {stored t}
)
select {verdict}, {task d}
{steps}

-- name: delete_each
-- kind: write
-- takes: user_ids text[], sids uuid[], task_ids bigint[], if_matches text[]
-- rides on: tasks_pkey, sessions_pkey, user_state_pkey
-- `delete` for many requests at once, as `create_each`; two requests about one task do not go together.
with asked as (
    select r.ord, r.user_id, r.task_id, r.if_match
    from unnest((select $1::text[]), (select $2::uuid[]), (select $3::bigint[]), (select $4::text[]))
        with ordinality as r (user_id, sid, task_id, if_match, ord)
    join sessions s on {each_alive}
),
{each_locked},
{each_old},
new as (
    select o.ord, o.id, o.user_id from old o where {each_matching}
),
changed as (
    select n.ord, n.id, n.user_id from new n
),
{each_stamp},
done as (
    update tasks t
    set deleted_at = {now}, revision = d.revision, updated_at = {now}
    from drawn d
    join stamp s on s.user_id = d.user_id
    where t.id = d.id
    returning {stored t}
)
select a.ord, l.user_id is null or not r.first as alone, {verdict}, {task d}
{each_steps}
{each_there}

-- name: restore
-- kind: write
-- takes: user_id text, sid uuid, task_id bigint, if_match text
-- rides on: tasks_pkey, sessions_pkey, user_state_pkey
-- Back from the trash. A live task is answered as it is.
with {caller_locked},
old as (
    select {stored t}
    from caller c
    join tasks t on t.user_id = c.user_id
    where t.id = $3
    for no key update of t
),
new as (
    select o.id, o.deleted_at from old o where {matching}
),
changed as (
    select n.id from new n where n.deleted_at is not null
),
{stamp},
done as (
    update tasks t
    set deleted_at = null, revision = s.revision, updated_at = {now}
    from changed ch, stamp s
    where t.id = ch.id
    returning {stored t}
),
{answer}
select {verdict}, {task a}
{steps}
left join answer a on true

-- name: erase
-- kind: write
-- takes: user_id text, sid uuid, task_id bigint, if_match text
-- rides on: tasks_pkey, sessions_pkey, user_state_pkey
-- A task gone for good, from the list or from the trash; a bare tombstone tells sync of it. There is one already where a
-- task was erased before and put back by hand.
with {caller_locked},
old as (
    select t.id, t.revision
    from caller c
    join tasks t on t.user_id = c.user_id
    where t.id = $3
    for update of t
),
new as (
    select o.id from old o where {matching}
),
changed as (
    select n.id from new n
),
{stamp},
grave as (
    insert into tombstones (user_id, task_id, revision, deleted_at)
    select $1, ch.id, s.revision, statement_timestamp()
    from changed ch, stamp s
    on conflict (user_id, task_id) do update
    set revision = excluded.revision, deleted_at = excluded.deleted_at
    returning revision
),
done as (
    delete from tasks t
    using changed ch
    where t.id = ch.id
    returning t.id
)
select {verdict}, g.revision
{steps}
left join grave g on true
