-- What measurements leave behind, taken away again: tasks that the users of a benchmark were given since a mark.

-- name: mark
-- kind: read
-- takes:
-- rides on: tasks_pkey
-- The last task there is.
select max(t.id) as last from tasks t

-- name: tasks
-- kind: write
-- takes: last bigint, users text
-- rides on:
-- Deletes what those users, a JSON array, were given since the mark; how many.
with done as (
    delete from tasks t
    where t.id > $1 and t.user_id = any(array(select json_array_elements_text($2::text::json)))
    returning t.id
)
select count(*) as swept from done d

-- name: tombstones
-- kind: write
-- takes: last bigint, users text
-- rides on:
-- Deletes what tells of the tasks deleted; how many.
with done as (
    delete from tombstones b
    where b.task_id > $1 and b.user_id = any(array(select json_array_elements_text($2::text::json)))
    returning b.task_id
)
select count(*) as swept from done d

-- name: vacuum
-- kind: read
-- takes:
-- rides on:
-- Clears what was deleted out of the indexes, so that whoever is measured next does not pay for it.
vacuum tasks, task_texts, tombstones, user_state
