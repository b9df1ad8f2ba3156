-- Tasks from elsewhere, for one user. `import_key` is the name that a task had there: with it, it exists once.

-- name: owner
-- kind: read
-- takes: who text
-- rides on: users_pkey, users_email_key
-- Whom an id or an e-mail address belongs to; an id that is somebody else's address comes first.
select found.id
from (
    select u.id, 1 as place from users u where u.id = $1
    union all
    select u.id, 2 as place from users u where lower(u.email) = lower($1)
) found
order by found.place
limit 1

-- name: lock
-- kind: read
-- takes: user_id text
-- rides on: user_state_pkey
-- The user's revision, held until the transaction ends, and its time. No row: no such user.
select us.revision, now() as now
from user_state us
where us.user_id = $1
for no key update of us

-- name: known
-- kind: read
-- takes: user_id text, keys text
-- rides on: tasks_user_id_import_key_key
-- Which of the keys, a JSON array, the user has a task of, in the trash too. The limit keeps the planner, who
-- knows nothing of the rows that an import has brought so far, from reading all keys of the user.
select t.import_key
from json_array_elements_text($2::text::json) k (key)
cross join lateral (
    select t.import_key
    from tasks t
    where t.user_id = $1 and t.import_key = k.key
    limit 1
) t

-- name: stamp
-- kind: write
-- takes: user_id text, count bigint
-- rides on: user_state_pkey
-- The user's revision moves by as many as there are new tasks.
update user_state us
set revision = us.revision + $2
where us.user_id = $1
