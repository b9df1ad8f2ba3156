-- Users, as admins see and change them. Every statement begins with the caller: no row at all means 401. Whether the caller
-- is an admin is decided in the same statement.

-- name: list
-- kind: read
-- each: who everyone addressed
-- takes: user_id text, sid uuid, skip bigint, size bigint, after text, counted boolean{who_takes}
-- rides on: {who_index}, tasks_user_id_created_at_id_idx, users_pkey, sessions_pkey, user_state_pkey
-- A page of users by id, beyond `after`, past `skip` rows, `size` at most, each with the number of their live tasks; `total`
-- where it is to be `counted`. A row without an id: there is no user; where `allowed` is false, the caller is no admin.
-- By id, for that order has an index and never changes. Tasks are counted behind the limit: of the page's users only.
with caller as (
    select us.user_id, u.is_admin
    from sessions s, user_state us, users u
    where {alive} and u.id = us.user_id
)
select c.is_admin as allowed,
    case when $6 and c.is_admin then (select count(*) from users u where true {who}) end as total,
    p.id, p.email, p.name, p.is_active, p.is_admin, p.created_at, p.updated_at, p.last_login_at, n.task_count
from caller c
left join lateral (
    select u.id, u.email, u.name, u.is_active, u.is_admin, u.created_at, u.updated_at, u.last_login_at
    from users u
    where c.is_admin and u.id > $5 {who}
    order by u.id
    limit $4 offset $3
) p on true
left join lateral (
    select count(*) as task_count
    from tasks t
    where t.user_id = p.id and t.deleted_at is null
) n on true
order by p.id

-- name: update
-- kind: write
-- takes: user_id text, sid uuid, id text, set_is_active boolean, is_active boolean, set_is_admin boolean, is_admin boolean
-- rides on: users_pkey, sessions_pkey, sessions_user_id_idx, user_state_pkey, tasks_user_id_created_at_id_idx
-- What a user may do: a field whose `set_` is false stays. `oneself`: nobody deactivates themselves; `last`: without the
-- caller no active admin would be left; `forbidden`: the caller is no admin; `absent`, `same`, `done`.
-- Locks: the target's state, as that user's own writers do (the trigger on users updates it), then in the order of ids the
-- rows that decide: of caller and target, and of every active admin where admins give up their own rights. Of two who
-- demote each other the second finds that they are no admin any more.
-- When `is_active` changes, either way, sessions end: one that a login opened unseen is ended by the reactivation.
with {caller},
state as (
    select us.user_id
    from caller c, user_state us
    where us.user_id = $3
    for no key update of us
),
concerned as (
    select c.user_id as id
    from caller c
    union
    select st.user_id
    from state st
    union
    select u.id
    from caller c, users u
    where $1 = $3 and $6 and not $7 and u.is_admin and u.is_active
),
held as (
    select u.id, u.email, u.name, u.is_active, u.is_admin, u.created_at, u.updated_at, u.last_login_at
    from concerned x
    join users u on u.id = x.id
    order by u.id
    for no key update of u
),
new as (
    select h.id,
        case when $4 then $5 else h.is_active end as is_active,
        case when $6 then $7 else h.is_admin end as is_admin,
        h.is_active as was_active, h.is_admin as was_admin
    from held h
    where h.id = $3
),
judged as (
    select n.id, n.is_active, n.is_admin, n.was_active,
        case when not me.is_admin then 'forbidden'
             when n.id is null then 'absent'
             when n.id = me.id and not n.is_active then 'oneself'
             when n.id = me.id and not n.is_admin
                 and not exists (select from held h where h.id <> me.id and h.is_active and h.is_admin) then 'last'
             when (n.is_active, n.is_admin) = (n.was_active, n.was_admin) then 'same'
             else 'done' end as verdict
    from caller c
    join held me on me.id = c.user_id and me.is_active
    left join new n on true
),
done as (
    update users u
    set is_active = j.is_active, is_admin = j.is_admin, updated_at = greatest(statement_timestamp(), u.updated_at)
    from judged j
    where u.id = j.id and j.verdict = 'done'
    returning u.id, u.email, u.name, u.is_active, u.is_admin, u.created_at, u.updated_at, u.last_login_at
),
stamped as (
    update user_state us
    set tokens_valid_from = greatest(statement_timestamp(), us.tokens_valid_from)
    from judged j
    where us.user_id = j.id and j.verdict = 'done' and j.is_active <> j.was_active
),
ended as (
    update sessions s
    set revoked_at = statement_timestamp()
    from judged j
    where s.user_id = j.id and s.revoked_at is null and j.verdict = 'done' and j.is_active <> j.was_active
),
answer as (
    select d.id, d.email, d.name, d.is_active, d.is_admin, d.created_at, d.updated_at, d.last_login_at
    from done d
    union all
    select h.id, h.email, h.name, h.is_active, h.is_admin, h.created_at, h.updated_at, h.last_login_at
    from judged j
    join held h on h.id = j.id
    where j.verdict = 'same'
)
select j.verdict,
    a.id, a.email, a.name, a.is_active, a.is_admin, a.created_at, a.updated_at, a.last_login_at, n.task_count
from judged j
left join answer a on true
left join lateral (
    select count(*) as task_count
    from tasks t
    where t.user_id = a.id and t.deleted_at is null
) n on true
