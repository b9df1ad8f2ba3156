-- Tasks. Every statement begins with the caller: no row at all means 401.
-- Writes lock user_state, then the task, and decide from what they locked (see ARCHITECTURE.md, "The way of a write").

-- name: list
-- kind: read
-- takes: user_id text, sid uuid, known bigint, before timestamptz, before_id bigint, skip bigint, size bigint
-- rides on: tasks_user_id_created_at_id_idx, sessions_pkey, user_state_pkey
-- Live tasks, newest first, with the revision they were read at; `size` rows at most.
-- The page begins below (`before`, `before_id`), infinity for the first, and skips `skip` rows.
-- Where `known` is still the revision no task is read and one row without an id comes back.
-- The user is $1 and not the caller's column, for the planner knows how many tasks a given user has.
with {caller}
select c.revision as list_revision, {task p}
from caller c
left join lateral (
    select {stored t}
    from tasks t
    where t.user_id = $1 and t.deleted_at is null
      and c.revision is distinct from $3
      and (t.created_at, t.id) < ($4, $5)
    order by t.created_at desc, t.id desc
    limit $7 offset $6
) p on true
order by p.created_at desc, p.id desc

-- name: get
-- kind: read
-- takes: user_id text, sid uuid, task_id bigint
-- rides on: tasks_pkey, sessions_pkey, user_state_pkey
-- One live task. A row without an id: no such task.
with {caller}
select {task t}
from caller c
left join tasks t on t.id = $3 and t.user_id = c.user_id and t.deleted_at is null

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
-- A task gone for good, from the list or from the trash; a bare tombstone tells sync of it.
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
