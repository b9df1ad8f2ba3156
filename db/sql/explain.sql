-- What `roundtrip explain` fills statements with; never within a request of the API.

-- name: sample
-- kind: read
-- takes:
-- rides on:
-- The user with the most tasks, or any, and what is theirs: their newest live task, their conversation of the latest activity.
-- As texts, for they stand in the text of an EXECUTE; null where there is none.
with most as (
    select t.user_id
    from tasks t
    group by t.user_id
    order by count(*) desc
    limit 1
)
select u.id as user_id,
    (select t.id::text from tasks t where t.user_id = u.id and t.deleted_at is null
        order by t.created_at desc, t.id desc limit 1) as task_id,
    (select c.id::text from conversations c where c.user_id = u.id
        order by c.updated_at desc, c.id desc limit 1) as conversation_id
from users u
where u.id = coalesce((select m.user_id from most m), (select min(v.id) from users v))

-- name: session
-- kind: write
-- takes: sid uuid, user_id text
-- rides on:
-- A session for a statement to be run with, undone with it: nobody's own is borrowed.
insert into sessions (id, user_id, refresh_hash, expires_at)
values ($1, $2, '', now() + interval '1 hour')
returning id

-- name: mode
-- kind: read
-- takes: plans text
-- rides on:
-- Which kind of plan this transaction makes of what is prepared.
select set_config('plan_cache_mode', $1, true) as plans
