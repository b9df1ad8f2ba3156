-- Demo data for development, and users by the thousand.

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

-- name: start
-- kind: read
-- takes:
-- rides on:
-- The number of the last user that `bulk` made, by id or, should the id have changed, by e-mail address; and the time.
select coalesce(max(n.number::int), 0) as last, now() as now
from users u
cross join lateral (values
    (substring(u.id from '^([0-9]+)-0000-4000-8000-5eed5eed5eed$')),
    (substring(lower(u.email) from '^user([0-9]+)@example[.]com$'))
) n (number)
where char_length(n.number) <= 8

-- name: stamp
-- kind: write
-- takes: revisions text
-- rides on:
-- The revisions of users who are new, JSON by id, before their tasks come with a revision each.
update user_state us
set revision = r.value::bigint
from json_each_text($1::text::json) r
where us.user_id = r.key

-- name: analyze
-- kind: read
-- takes:
-- rides on:
-- Statistics for the planner of the tables that `bulk` fills.
analyze users, user_state, tasks, task_texts
