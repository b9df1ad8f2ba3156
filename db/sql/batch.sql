-- Batches of tasks: many operations in order, all or nothing, each change with a revision of its own.

-- name: apply
-- kind: write
-- takes: user_id text, sid uuid, operations text
-- rides on: tasks_pkey, sessions_pkey, user_state_pkey
-- A row for each operation, in their order: its verdict, its place, the user's revision after the batch, and the task after it.
-- Where one fails nothing is done, and only the first that does comes back.
with recursive {caller_locked},
{folded $3},
won as (
    select t.changes from tally t where t.failed is null
),
{applied}
select o.verdict, o.n, c.revision + t.changes as batch_revision, {task o}
from caller c
cross join tally t
join outcome o on t.failed is null or o.n = t.failed
order by o.n

-- name: apply_once
-- kind: keyed
-- takes: user_id text, sid uuid, route text, key text, fingerprint bytea, operations text
-- rides on: tasks_pkey, sessions_pkey, user_state_pkey
-- The same under an idempotency key; `verdict` and `failed` are of the first that fails, if the key holds no answer.
with recursive {caller_locked},
{folded $6},
draft as (
    select case o.verdict when 'absent' then 404 when 'moved' then 412 else 200 end as status,
        case when t.failed is null then json_build_object('drawn', nextval('tasks_id_seq'),
            'revision', c.revision + t.changes,
            'results', (
                select json_agg(json_build_object('op', r.op, 'id', r.id, 'task', {json r}) order by r.n)
                from outcome r))::text end as result
    from caller c
    cross join tally t
    left join outcome o on o.n = t.failed
),
{kept},
{applied}
select o.verdict, t.failed, {holds}
from kept k
cross join tally t
left join outcome o on o.n = t.failed
