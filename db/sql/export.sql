-- All of a user's data, page by page. The caller is asked for with each: no row at all means 401.

-- name: page
-- kind: read
-- takes: user_id text, sid uuid, told boolean, created_at text, task_id bigint, conversation_id bigint, talk_id bigint, message_id bigint, size int, octets bigint
-- rides on: users_pkey, tasks_user_id_created_at_id_idx, tasks_trash_idx, tasks_pkey, conversations_user_id_updated_at_id_idx, conversations_pkey, messages_conversation_id_id_idx, messages_pkey, sessions_pkey, user_state_pkey
-- The next rows, of each kind beyond its own position: the user unless `told`, tasks beyond (`created_at`, `task_id`),
-- conversations beyond `conversation_id`, messages beyond (`talk_id`, `message_id`), the talk being their conversation.
-- `size` rows at most, and none behind the one with which descriptions and contents pass `octets`; `more`: there are others.
-- Positions never change, so that a row which was there all along comes once: live tasks and trash are walked together,
-- for a task may go from one to the other. All conversations there are come before a message does.
-- `ahead` has keys and lengths alone, four times `size` at most; whole rows are fetched for the page only, one by one, which
-- the limits see to: a join could read all the table.
with {caller},
talks as materialized (
    select v.id
    from conversations v
    where v.user_id = $1
),
ahead as (
    (select 0 as kind, '-infinity'::timestamptz as created_at, 0::bigint as talk_id, 0::bigint as id, 0 as octets
    where not $3)
    union all
    (select 1, t.created_at, 0, t.id, coalesce(octet_length(t.description), 0)
    from tasks t
    where t.user_id = $1 and t.deleted_at is null and (t.created_at, t.id) > ($4::text::timestamptz, $5)
    order by t.created_at, t.id
    limit $9 + 1)
    union all
    (select 1, t.created_at, 0, t.id, coalesce(octet_length(t.description), 0)
    from tasks t
    where t.user_id = $1 and t.deleted_at is not null and (t.created_at, t.id) > ($4::text::timestamptz, $5)
    order by t.created_at, t.id
    limit $9 + 1)
    union all
    (select 2, '-infinity', 0, v.id, 0
    from talks v
    where v.id > $6
    order by v.id
    limit $9 + 1)
    union all
    (select 3, '-infinity', v.id, m.id, m.octets
    from (select v.id from talks v where v.id >= $7 order by v.id) v
    cross join lateral (
        select m.id, octet_length(m.content) as octets
        from messages m
        where m.conversation_id = v.id and (m.conversation_id, m.id) > ($7, $8)
        order by m.id
        limit $9 + 1
    ) m
    order by v.id, m.id
    limit $9 + 1)
),
page as (
    select a.kind, a.id,
        row_number() over place as n,
        sum(a.octets) over place - a.octets as before,
        count(*) over () as found
    from (
        select a.kind, a.created_at, a.talk_id, a.id, a.octets
        from ahead a
        order by a.kind, a.created_at, a.talk_id, a.id
        limit $9 + 1
    ) a
    window place as (order by a.kind, a.created_at, a.talk_id, a.id)
)
select p.n < p.found as more, p.kind,
    u.id, u.email, u.name, u.is_active, u.is_admin, u.created_at, u.updated_at, u.last_login_at,
    {task t},
    v.id, v.user_id, v.title, v.created_at, v.updated_at,
    m.id, m.conversation_id, m.user_id, m.role, m.content, m.created_at
from caller c
left join page p on p.n <= $9 and p.before < $10
left join lateral (
    select u.id, u.email, u.name, u.is_active, u.is_admin, u.created_at, u.updated_at, u.last_login_at
    from users u
    where p.kind = 0 and u.id = c.user_id
    limit 1
) u on true
left join lateral (
    select {stored t}
    from tasks t
    where p.kind = 1 and t.id = p.id
    limit 1
) t on true
left join lateral (
    select v.id, v.user_id, v.title, v.created_at, v.updated_at
    from conversations v
    where p.kind = 2 and v.id = p.id
    limit 1
) v on true
left join lateral (
    select m.id, m.conversation_id, m.user_id, m.role, m.content, m.created_at
    from messages m
    where p.kind = 3 and m.id = p.id
    limit 1
) m on true
order by p.n
