-- The archive: completed tasks that go into a file, and come back from it. Nothing here is a request of the API.
-- `erase` and `restore` take some tasks of the file and tell of each what became of it. `lock free` leaves those whose users
-- somebody is writing to (`busy`); `lock busy` waits for the writers, and is for one user's tasks, so that nobody waits behind
-- somebody else.

-- name: find_user
-- kind: read
-- takes: word text
-- rides on: users_pkey, users_email_key
-- Whose id or e-mail address a word is.
select u.id, u.email
from users u
where u.id = $1 or lower(u.email) = lower($1)
order by u.id = $1 desc
limit 1

-- name: count
-- kind: read
-- takes: age bigint, user_id text
-- rides on:
-- How much there is to archive, of one user or (null) of all: live tasks that were completed more than `age` seconds ago,
-- which is before `before`. Reads the table once, for it is not indexed by that.
select p.before, count(t.id) as tasks, count(distinct t.user_id) as users
from (select now() - $1::bigint * interval '1 second' as before) p
left join tasks t on t.completed_at < p.before and t.deleted_at is null and ($2::text is null or t.user_id = $2)
group by p.before

-- name: list
-- kind: read
-- takes: before timestamptz, user_id text
-- rides on:
-- What there is to archive, user by user. Reads the table once, for a cursor.
select u.email, {archived t}
from tasks t
join users u on u.id = t.user_id
where t.completed_at < $1 and t.deleted_at is null and ($2::text is null or t.user_id = $2)
order by t.user_id, t.id

-- name: erase
-- kind: write
-- each: lock free busy
-- takes: tasks text
-- rides on: tasks_pkey, user_state_pkey
-- Erases archived tasks, each only if it is in every column what the file has: `moved` if it has changed, `absent` if it is
-- gone.
with {given},
{held given},
done as (
    delete from tasks t
    using given g
    where t.id = any(array(select x.id from given x)) and t.id = g.id and t.deleted_at is null
      and g.user_id = any(array(select h.user_id from held h))
      and ({archived t}) is not distinct from ({archived g})
    returning t.id, t.user_id
),
{buried}
select g.id, case when g.id = any(array(select d.id from done d)) then 'done'
        when t.id is null then 'absent'
        when g.user_id = any(array(select h.user_id from held h)) then 'moved'
        else 'busy' end as verdict
from given g
left join tasks t on t.id = g.id and t.user_id = g.user_id

-- name: look
-- kind: read
-- takes: tasks text
-- rides on: tasks_pkey, tasks_user_id_import_key_key, user_state_pkey
-- What `restore` would do: `absent` where there is no such user, `same` where the task is there already.
with {given}
select g.id, case when {nobody} then 'absent' when {there} then 'same' else 'done' end as verdict
from given g

-- name: restore
-- kind: write
-- each: lock free busy
-- takes: tasks text
-- rides on: tasks_pkey, tasks_user_id_import_key_key, user_state_pkey, tombstones_pkey
-- Brings tasks back with the times they had, each under a new revision, which the trigger gives to those that were inserted.
-- A task takes its old id. Where that is somebody else's by now it takes a new one, and a key by which it is found again.
-- Its tombstone goes: an older cursor of sync comes upon the task instead, at a higher revision, so nothing is lost to it and
-- `purged_revision` stays.
with {given},
{held given},
placed as materialized (
    select {archived g}, o.id is not null as elsewhere,
        case when o.id is null then g.id else nextval(pg_get_serial_sequence('tasks', 'id')) end as new_id
    from given g
    left join tasks o on o.id = g.id
    where g.user_id = any(array(select h.user_id from held h)) and not {there}
),
done as (
    insert into tasks (id, user_id, title, description, status, priority, due_date,
        created_at, updated_at, completed_at, revision, import_key)
    select g.new_id, g.user_id, g.title, g.description, g.status, g.priority, g.due_date,
        g.created_at, g.updated_at, g.completed_at, 0, case when g.elsewhere then {came_back_by} else g.import_key end
    from placed g
    on conflict do nothing
    returning id, user_id
),
unburied as (
    delete from tombstones b
    using done d
    where b.user_id = d.user_id and b.task_id = d.id
)
select g.id, case when p.new_id = any(array(select d.id from done d)) then 'done'
        when {nobody} then 'absent'
        when g.user_id = any(array(select h.user_id from held h)) then 'same'
        else 'busy' end as verdict
from given g
left join placed p on p.id = g.id

-- name: advance
-- kind: write
-- takes: id bigint
-- rides on:
-- Draws numbers until no new task can be given an id up to `id`, 100,000 at a time; how many it drew. Only a database that did
-- not itself give out the ids of a file has any to draw. (`setval` takes a right that a service does not need, and could set
-- the sequence back past what others draw meanwhile.)
select count(n.drawn) as drawn
from (
    select nextval(s.ids) as drawn
    from (select pg_get_serial_sequence('tasks', 'id')::regclass as ids) s,
        generate_series(1, least(coalesce($1 - pg_sequence_last_value(s.ids), 1), 100000))
) n
