-- A page of tasks as rows, newest first: what `tasks.list` of db/sql/tasks.sql gives as JSON, for programs that make JSON themselves.
with caller as (
    select us.user_id, us.revision, us.conversations_revision
    from sessions s, user_state us
    where s.id = $2 and s.user_id = $1 and us.user_id = $1
        and s.revoked_at is null and s.expires_at > now() and us.is_active
)
select c.revision as list_revision, (c.revision is distinct from $3 or extract(epoch from now()) * 1000000 > $4::bigint) as fresh, null::bigint as total, null::bigint as until,
    (p.created_at)::text as position, p.id, p.user_id, p.title, p.description, p.status, p.status = 'completed' as completed,
    p.priority, (array['lowest', 'low', 'medium', 'high', 'highest'])[p.priority] as priority_label,
    btrim(to_json(p.due_date at time zone 'UTC')::text, '"') || 'Z' as due_date, btrim(to_json(p.created_at at time zone 'UTC')::text, '"') || 'Z' as created_at, btrim(to_json(p.updated_at at time zone 'UTC')::text, '"') || 'Z' as updated_at,
    btrim(to_json(p.completed_at at time zone 'UTC')::text, '"') || 'Z' as completed_at, btrim(to_json(p.deleted_at at time zone 'UTC')::text, '"') || 'Z' as deleted_at, p.revision
from caller c
left join lateral (
    select t.id, t.user_id, t.title, t.description, t.status, t.priority, t.due_date,
        t.created_at, t.updated_at, t.completed_at, t.deleted_at, t.revision
    from tasks t
    where t.user_id = $1 and t.deleted_at is null and (c.revision is distinct from $3 or extract(epoch from now()) * 1000000 > $4::bigint)
      and (t.created_at, t.id) < ($7::text::timestamptz, $8)
    order by t.created_at desc, t.id desc
    limit (select $6::bigint) offset (select $5::bigint)
) p on true
order by p.created_at desc, p.id desc
