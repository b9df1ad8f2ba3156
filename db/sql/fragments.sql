-- Pieces that many statements share, written {word} where they stand. `@` is the alias given with {word alias}.

-- fragment: alive
-- The session $2 of user $1 may act: not ended, not expired, its user active. Joins sessions s, user_state us.
s.id = $2 and s.user_id = $1 and us.user_id = $1
        and s.revoked_at is null and s.expires_at > now() and us.is_active

-- fragment: caller
-- Who is calling, and the revision of their tasks. No row: 401.
caller as (
    select us.user_id, us.revision
    from sessions s, user_state us
    where {alive}
)

-- fragment: caller_locked
-- The same for a write: the user's state is locked first, always, so that no two writers can deadlock.
caller as (
    select us.user_id, us.revision
    from sessions s, user_state us
    where {alive}
    for no key update of us
)

-- fragment: stored
-- A task's columns as they are stored, in the order of the JSON.
@.id, @.user_id, @.title, @.description, @.status, @.priority, @.due_date,
        @.created_at, @.updated_at, @.completed_at, @.deleted_at, @.revision

-- fragment: task
-- A task as the API shows it: two of its fields are derived, none is stored twice.
@.id, @.user_id, @.title, @.description, @.status, @.status = 'completed' as completed,
    @.priority, (array['lowest', 'low', 'medium', 'high', 'highest'])[@.priority] as priority_label, @.due_date,
    @.created_at, @.updated_at, @.completed_at, @.deleted_at, @.revision

-- fragment: matching
-- If-Match, in a text: asyncpg asks the server about an array type before its first use of each connection.
($4::text is null or o.revision = any(string_to_array($4, ',')::bigint[]))

-- fragment: edge
-- A time of ours. asyncpg sends the first and the last one that Python knows as infinities, which no row may hold.
case @::timestamptz when 'infinity' then '9999-12-31 23:59:59.999999+00'
        when '-infinity' then '0001-01-01 00:00:00+00' else @ end

-- fragment: now
-- The time of a change: a statement that waited for a lock must not set the clock of a row back.
greatest(statement_timestamp(), t.updated_at)

-- fragment: stamp
-- The next revision of the caller, taken only if there is something to change.
stamp as (
    update user_state us
    set revision = us.revision + 1
    from changed
    where us.user_id = $1
    returning us.revision
)

-- fragment: answer
-- The task as it is after a write that may have changed nothing.
answer as (
    select {stored d} from done d
    union all
    select {stored o} from old o where not exists (select from done)
)

-- fragment: steps
-- The caller and how far the write came for them.
from caller c
left join old o on true
left join new n on true
left join done d on true

-- fragment: verdict
-- What became of a write, read off the rows that it locked.
case when o.id is null then 'absent'
         when n.id is null then 'moved'
         when d.id is null then 'same'
         else 'done' end as verdict
