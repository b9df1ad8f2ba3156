-- One live task as a row: what `tasks.get` of db/sql/tasks.sql gives as JSON, for programs that make JSON themselves.
with caller as (
    select us.user_id, us.revision, us.conversations_revision
    from sessions s, user_state us
    where s.id = $2 and s.user_id = $1 and us.user_id = $1
        and s.revoked_at is null and s.expires_at > now() and us.is_active
)
select t.id, t.user_id, t.title, t.description, t.status, t.status = 'completed' as completed,
    t.priority, (array['lowest', 'low', 'medium', 'high', 'highest'])[t.priority] as priority_label,
    btrim(to_json(t.due_date at time zone 'UTC')::text, '"') || 'Z' as due_date, btrim(to_json(t.created_at at time zone 'UTC')::text, '"') || 'Z' as created_at, btrim(to_json(t.updated_at at time zone 'UTC')::text, '"') || 'Z' as updated_at,
    btrim(to_json(t.completed_at at time zone 'UTC')::text, '"') || 'Z' as completed_at, btrim(to_json(t.deleted_at at time zone 'UTC')::text, '"') || 'Z' as deleted_at, t.revision
from caller c
left join tasks t on t.id = $3 and t.user_id = c.user_id and t.deleted_at is null
