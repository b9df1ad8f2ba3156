-- Demo data for development.

-- name: user
-- kind: write
-- takes: id text, email text, name text, password_hash text, is_admin boolean
-- rides on:
-- A demo user, unless the id or the e-mail address is there already. One row if it was made.
insert into users (id, email, name, password_hash, is_admin)
values ($1, $2, $3, $4, $5)
on conflict do nothing
returning id

-- name: task
-- kind: write
-- takes: user_id text, title text, description text, completed boolean, priority smallint, due_in_days int
-- rides on:
-- A demo task; the safety-net trigger gives it its revision.
insert into tasks (user_id, title, description, status, completed_at, priority, due_date)
values ($1, $2, $3, case when $4 then 'completed' else 'pending' end, case when $4 then now() end, $5,
    now() + make_interval(days => $6))
returning id

-- name: session
-- kind: write
-- takes: sid uuid, user_id text, refresh_hash bytea
-- rides on: sessions_user_id_idx
-- A session for the token that `serve` prints, in place of the one of its last start.
with ended as (
    delete from sessions s where s.user_id = $2 and s.user_agent = 'roundtrip serve'
)
insert into sessions (id, user_id, refresh_hash, user_agent, expires_at)
values ($1, $2, $3, 'roundtrip serve', now() + interval '1 day')
returning id
