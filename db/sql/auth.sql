-- Signing in. A session is one row for all its life: a family of refresh tokens of which it knows the last two, by hash.
-- `idle` and `ttl` are the seconds after which it ends, unused and in any case.

-- name: register
-- kind: write
-- takes: email text, name text, password_hash text, sid uuid, refresh_hash bytea, user_agent text, ip inet, idle integer, ttl integer
-- rides on:
-- A new user with a first session. An e-mail address that is taken: the constraint users_email_key.
with made as (
    insert into users as u (email, name, password_hash, last_login_at)
    values ($1, $2, $3, now())
    returning u.id, u.email, u.name, u.is_active, u.is_admin, u.created_at, u.updated_at, u.last_login_at
),
opened as (
    insert into sessions (id, user_id, refresh_hash, user_agent, ip, expires_at)
    select $4, m.id, $5, $6, $7, now() + least($8::int, $9::int) * interval '1 second'
    from made m
)
select m.id, m.email, m.name, m.is_active, m.is_admin, m.created_at, m.updated_at, m.last_login_at
from made m

-- name: login_read
-- kind: read
-- takes: email text
-- rides on: users_email_key
-- Whom an e-mail address belongs to, and the hash to verify a password against.
select u.id, u.password_hash, u.is_active
from users u
where lower(u.email) = lower($1)

-- name: login
-- kind: write
-- takes: user_id text, password_hash text, new_hash text, sid uuid, refresh_hash bytea, user_agent text, ip inet, idle integer, ttl integer
-- rides on: users_pkey
-- A session for a user whose hash is still the verified one; `new_hash` takes its place, unless null.
-- `last_login_at` always moves: that is how users.change_password sees a login that it cannot see the session of.
with known as (
    update users u
    set last_login_at = greatest(statement_timestamp(), u.last_login_at + interval '1 microsecond'),
        password_hash = coalesce($3, u.password_hash)
    where u.id = $1 and u.password_hash = $2 and u.is_active
    returning u.id, u.email, u.name, u.is_active, u.is_admin, u.created_at, u.updated_at, u.last_login_at
),
opened as (
    insert into sessions (id, user_id, refresh_hash, user_agent, ip, expires_at)
    select $4, k.id, $5, $6, $7, now() + least($8::int, $9::int) * interval '1 second'
    from known k
)
select k.id, k.email, k.name, k.is_active, k.is_admin, k.created_at, k.updated_at, k.last_login_at
from known k

-- name: refresh
-- kind: write
-- takes: sid uuid, presented_hash bytea, next_hash bytea, grace integer, idle integer, ttl integer
-- rides on: sessions_pkey, users_pkey, user_state_pkey
-- A refresh token for its successor. `rotate`: it was the current one, and now the successor is; `again`: it was the one
-- before, within `grace` seconds; `reused`: an older one, or too late, and the session ends; `ended`: it had before.
with held as (
    select s.id, s.user_id, s.refresh_hash, s.previous_hash, s.rotated_at,
        s.revoked_at is null and s.expires_at > now() and us.is_active as alive
    from sessions s
    join user_state us on us.user_id = s.user_id
    where s.id = $1
    for no key update of s
),
judged as (
    select h.id, h.user_id,
        case when not h.alive then 'ended'
             when h.refresh_hash = $2 then 'rotate'
             when h.previous_hash = $2 and h.rotated_at > now() - $4::int * interval '1 second' then 'again'
             else 'reused' end as verdict
    from held h
),
done as (
    update sessions s
    set refresh_hash = case when j.verdict = 'rotate' then $3 else s.refresh_hash end,
        previous_hash = case when j.verdict = 'rotate' then s.refresh_hash else s.previous_hash end,
        rotated_at = case when j.verdict = 'rotate' then now() else s.rotated_at end,
        last_used_at = greatest(now(), s.last_used_at),
        expires_at = case when j.verdict = 'rotate'
            then least(now() + $5::int * interval '1 second', s.created_at + $6::int * interval '1 second')
            else s.expires_at end,
        revoked_at = case when j.verdict = 'reused' then now() end
    from judged j
    where s.id = j.id and j.verdict in ('rotate', 'reused')
)
select j.verdict, u.id, u.email, u.name, u.is_active, u.is_admin, u.created_at, u.updated_at, u.last_login_at
from judged j
join users u on u.id = j.user_id

-- name: open_session
-- kind: write
-- takes: sid uuid, user_id text, user_agent text, ip inet, issued bigint, expires bigint
-- rides on: user_state_pkey, users_pkey
-- A session for a token of an identity provider, when it is first seen: issued and expiring in seconds since 1970, `sid` made of
-- the token. No row: nobody of the provider's (there is no such user, or one with a password of ours, or an inactive one), or
-- a token from before all were refused. One that is known stays as it is, ended too: the statement after this one tells.
-- A token has whole seconds, and is refused where its second is that of the refusal. The state is locked, and made anew, so
-- that `logout_all` knows that this came between. There is no refresh token of it: `refresh_hash` is empty, as no hash is.
with known as (
    update user_state us
    set tokens_valid_from = us.tokens_valid_from
    from users u
    where us.user_id = $2 and us.is_active and us.tokens_valid_from <= to_timestamp($5::bigint)
      and u.id = us.user_id and u.password_hash is null
    returning us.user_id
),
opened as (
    insert into sessions (id, user_id, refresh_hash, user_agent, ip, expires_at)
    select $1, k.user_id, '', $3, $4, to_timestamp($6::bigint)
    from known k
    on conflict (id) do nothing
)
select 'done' as verdict
from known k

-- name: logout
-- kind: write
-- takes: user_id text, sid uuid
-- rides on: sessions_pkey, user_state_pkey
-- The caller's own session ends.
with {caller},
done as (
    update sessions s
    set revoked_at = now()
    from caller c
    where s.id = $2 and s.user_id = c.user_id and s.revoked_at is null
)
select 'done' as verdict
from caller c

-- name: logout_all
-- kind: write
-- takes: user_id text, sid uuid
-- rides on: sessions_user_id_idx, sessions_pkey, user_state_pkey
-- All sessions of the caller end, and so do tokens of an identity provider. A login at the same moment comes after it.
-- `again`: the state changed while this waited for its lock, maybe by `open_session`, whose session cannot be seen from here
-- (a statement that waits keeps its snapshot) and is of a token from before. Nothing was changed; it is to be sent once more.
with caller as (
    select us.user_id, us.xmin as version
    from sessions s, user_state us
    where {alive}
    for no key update of us
),
judged as (
    select c.user_id, case when c.version = seen.xmin then 'done' else 'again' end as verdict
    from caller c
    join user_state seen on seen.user_id = c.user_id
),
stamped as (
    update user_state us
    set tokens_valid_from = greatest(statement_timestamp(), us.tokens_valid_from)
    from judged j
    where us.user_id = j.user_id and j.verdict = 'done'
),
done as (
    update sessions s
    set revoked_at = statement_timestamp()
    from judged j
    where s.user_id = j.user_id and s.revoked_at is null and j.verdict = 'done'
)
select j.verdict
from judged j

-- name: list_sessions
-- kind: read
-- takes: user_id text, sid uuid
-- rides on: sessions_user_id_idx, sessions_pkey, user_state_pkey
-- The live sessions of the caller, latest use first.
with {caller}
select s.id, s.user_agent, host(s.ip) as ip, s.created_at, s.last_used_at, s.expires_at, s.id = $2 as current
from caller c
left join sessions s on s.user_id = c.user_id and s.revoked_at is null and s.expires_at > now()
order by s.last_used_at desc, s.id desc

-- name: end_session
-- kind: write
-- takes: user_id text, sid uuid, session_id uuid
-- rides on: sessions_pkey, user_state_pkey
-- One live session of the caller ends, their own one too. One that had ended or expired is `absent`.
with {caller},
done as (
    update sessions s
    set revoked_at = now()
    from caller c
    where s.id = $3 and s.user_id = c.user_id and s.revoked_at is null and s.expires_at > now()
    returning s.id
)
select case when d.id is null then 'absent' else 'done' end as verdict
from caller c
left join done d on true
