-- The account of the caller. Every statement begins with the caller: no row at all means 401.
-- `password_hash` is the one that a password was just verified against: `moved` where it is no longer the stored one.

-- name: get
-- kind: read
-- takes: user_id text, sid uuid
-- rides on: users_pkey, sessions_pkey, user_state_pkey
-- The account as the API shows it.
with {caller}
select u.id, u.email, u.name, u.is_active, u.is_admin, u.created_at, u.updated_at, u.last_login_at
from caller c
join users u on u.id = c.user_id

-- name: read_hash
-- kind: read
-- takes: user_id text, sid uuid
-- rides on: users_pkey, sessions_pkey, user_state_pkey
-- The hash to verify a password against; null for a user of an identity provider.
with {caller}
select u.id, u.email, u.password_hash
from caller c
join users u on u.id = c.user_id

-- name: update
-- kind: write
-- takes: user_id text, sid uuid, set_name boolean, name text, set_email boolean, email text, password_hash text
-- rides on: users_pkey, sessions_pkey, user_state_pkey
-- Merge patch: a field whose `set_` is false stays, and what changes nothing leaves `updated_at`.
-- Another e-mail address than the present one needs the `password_hash`, and is not a verified one.
with {caller_locked},
old as (
    select u.id, u.email, u.name, u.password_hash, u.is_active, u.is_admin, u.created_at, u.updated_at, u.last_login_at
    from caller c
    join users u on u.id = c.user_id
    for no key update of u
),
new as (
    select o.id,
        case when $3 then $4::text else o.name end as name,
        case when $5 then $6::text else o.email end as email
    from old o
    where not $5 or o.email = $6 or o.password_hash = $7
),
done as (
    update users u
    set name = n.name, email = n.email, email_verified = u.email_verified and u.email = n.email,
        updated_at = greatest(statement_timestamp(), u.updated_at)
    from new n
    where u.id = n.id and (u.name, u.email) is distinct from (n.name, n.email)
    returning u.id, u.email, u.name, u.is_active, u.is_admin, u.created_at, u.updated_at, u.last_login_at
),
answer as (
    select d.id, d.email, d.name, d.is_active, d.is_admin, d.created_at, d.updated_at, d.last_login_at
    from done d
    union all
    select o.id, o.email, o.name, o.is_active, o.is_admin, o.created_at, o.updated_at, o.last_login_at
    from old o
    where not exists (select from done)
)
select case when n.id is null then 'moved'
         when d.id is null then 'same'
         else 'done' end as verdict,
    a.id, a.email, a.name, a.is_active, a.is_admin, a.created_at, a.updated_at, a.last_login_at
from answer a
left join new n on true
left join done d on true

-- name: change_password
-- kind: write
-- takes: user_id text, sid uuid, password_hash text, new_hash text
-- rides on: users_pkey, sessions_user_id_idx, sessions_pkey, user_state_pkey
-- A new password. The caller's other sessions end, and so do tokens of an identity provider; this session goes on.
-- `again`: a login with the old password ended while this waited for its lock. Its session cannot be seen from here
-- (a statement that waits keeps its snapshot), so nothing was changed, and the statement is to be sent once more.
with {caller_locked},
held as (
    select u.id, u.password_hash, u.last_login_at
    from caller c
    join users u on u.id = c.user_id
    for no key update of u
),
judged as (
    select h.id,
        case when h.password_hash is distinct from $3 then 'moved'
             when h.last_login_at is distinct from seen.last_login_at then 'again'
             else 'done' end as verdict
    from held h
    join users seen on seen.id = h.id
),
changed as (
    update users u
    set password_hash = $4, updated_at = greatest(statement_timestamp(), u.updated_at)
    from judged j
    where u.id = j.id and j.verdict = 'done'
),
stamped as (
    update user_state us
    set tokens_valid_from = greatest(statement_timestamp(), us.tokens_valid_from)
    from judged j
    where us.user_id = j.id and j.verdict = 'done'
),
ended as (
    update sessions s
    set revoked_at = statement_timestamp()
    from judged j
    where s.user_id = j.id and s.id <> $2 and s.revoked_at is null and j.verdict = 'done'
)
select j.verdict
from judged j

-- name: delete
-- kind: write
-- takes: user_id text, sid uuid, password_hash text
-- rides on: users_pkey, sessions_pkey, user_state_pkey
-- The user and everything of theirs. Their state is locked first and whole, so that no writer of theirs can deadlock.
with caller as (
    select us.user_id
    from sessions s, user_state us
    where {alive}
    for update of us
),
done as (
    delete from users u
    using caller c
    where u.id = c.user_id and u.password_hash = $3
    returning u.id
)
select case when d.id is null then 'moved' else 'done' end as verdict
from caller c
left join done d on true
