-- Pieces that many statements share, written {word} where they stand. `@` is the alias given with {word alias}.

-- fragment: alive
-- The session $2 of user $1 may act: not ended, not expired, its user active. Joins sessions s, user_state us.
s.id = $2 and s.user_id = $1 and us.user_id = $1
        and s.revoked_at is null and s.expires_at > now() and us.is_active

-- fragment: caller
-- Who is calling, and the revisions of their tasks and of their conversations. No row: 401.
caller as (
    select us.user_id, us.revision, us.conversations_revision
    from sessions s, user_state us
    where {alive}
)

-- fragment: caller_locked
-- The same for a write: the user's state is locked first, always, so that no two writers can deadlock.
caller as (
    select us.user_id, us.revision, us.conversations_revision
    from sessions s, user_state us
    where {alive}
    for no key update of us
)

-- fragment: caller_each
-- The caller of request r of many.
select us.user_id, us.revision
    from sessions s, user_state us
    where s.id = r.sid and s.user_id = r.user_id and us.user_id = r.user_id
      and s.revoked_at is null and s.expires_at > now() and us.is_active
    limit 1

-- fragment: stored
-- A task's columns as they are stored, in the order of the JSON.
@.id, @.user_id, @.title, @.description, @.status, @.priority, @.due_date,
        @.created_at, @.updated_at, @.completed_at, @.deleted_at, @.revision

-- fragment: task
-- A task as the API shows it: two of its fields are derived, none is stored twice.
@.id, @.user_id, @.title, @.description, @.status, @.status = 'completed' as completed,
    @.priority, (array['lowest', 'low', 'medium', 'high', 'highest'])[@.priority] as priority_label,
    {told @.due_date} as due_date, {told @.created_at} as created_at, {told @.updated_at} as updated_at,
    {told @.completed_at} as completed_at, {told @.deleted_at} as deleted_at, @.revision

-- fragment: told
-- A time as the API tells it, whatever the server's zone and style are. To make a datetime of it would cost the client 1 us, and
-- to_char takes twice as long.
btrim(to_json(@ at time zone 'UTC')::text, '"') || 'Z'

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

-- Pieces of writes for many requests at once: of `asked` (ord, user_id, task_id, if_match and what else), the requests whose session
-- is alive. How many there are is hidden from the planner, who would plan anew for every few.

-- fragment: each_alive
s.id = r.sid and s.user_id = r.user_id and s.revoked_at is null and s.expires_at > now()

-- fragment: each_locked
-- Users are locked in order, and whoever is held elsewhere holds up nobody.
locked as materialized (
    select us.user_id, us.revision, us.is_active
    from user_state us
    where us.user_id in (select a.user_id from asked a)
    order by us.user_id
    for no key update of us skip locked
)

-- fragment: each_old
-- Of the requests about one task the first has its turn now, the others go by themselves. Tasks are locked in the order of
-- their ids; the limit keeps the planner, who does not know how many there are, from reading the table whole.
turns as materialized (
    select a.ord, a.user_id, a.task_id, a.if_match,
        row_number() over (partition by a.task_id order by a.ord) = 1 as first
    from asked a
    join locked l on l.user_id = a.user_id and l.is_active
),
old as materialized (
    select r.ord, r.if_match, {stored t}
    from (select r.ord, r.user_id, r.task_id, r.if_match from turns r where r.first order by r.task_id) r
    cross join lateral (
        select {stored t}
        from tasks t
        where t.id = r.task_id and t.user_id = r.user_id and t.deleted_at is null
        limit 1
        for no key update of t
    ) t
)

-- fragment: each_matching
(o.if_match is null or o.revision = any(string_to_array(o.if_match, ',')::bigint[]))

-- fragment: each_stamp
-- A revision for each of the `changed`: those of a user in the order of the requests.
drawn as materialized (
    select ch.ord, ch.id, ch.user_id,
        l.revision + row_number() over (partition by ch.user_id order by ch.ord) as revision
    from changed ch
    join locked l on l.user_id = ch.user_id
),
stamp as (
    update user_state us
    set revision = d.revision
    from (select d.user_id, max(d.revision) as revision from drawn d group by d.user_id) d
    where us.user_id = d.user_id
    returning us.user_id
)

-- fragment: each_steps
-- The requests, and how far the write came for them; none of whose user is not active.
from asked a
left join locked l on l.user_id = a.user_id
left join turns r on r.ord = a.ord
left join old o on o.ord = a.ord
left join new n on n.ord = a.ord
left join done d on d.id = n.id

-- fragment: each_there
where l.user_id is null or r.ord is not null

-- Pieces of keyed statements. They lock the caller, make a `draft` (status, result) with what they would answer, and have
-- their effect only if it has `won`. `result` holds an id that was drawn for it, so that no two are equal; null: refused.

-- fragment: kept
-- What the key $4 of route $3 holds from now on: a fresh answer of an earlier request, or the draft.
-- `do update` even where nothing changes: only so does a request that waited see what the one before it stored.
kept as (
    insert into idempotency_keys as k (user_id, route, key, fingerprint, status, result, created_at)
    select $1, $3, $4, $5, d.status, d.result, statement_timestamp()
    from draft d
    on conflict (user_id, route, key) do update
    set fingerprint = case when {fresh} then k.fingerprint else excluded.fingerprint end,
        status = case when {fresh} then k.status else excluded.status end,
        result = case when {fresh} then k.result else excluded.result end,
        created_at = case when {fresh} then k.created_at else excluded.created_at end
    returning k.fingerprint, k.status, k.result
),
won as (
    select k.status from kept k join draft d on d.result = k.result
)

-- fragment: fresh
-- Answers are kept for 24 hours; what was refused leaves none.
k.result is not null and k.created_at > statement_timestamp() - interval '24 hours'

-- fragment: stamp_won
-- The next revision of the caller, for the request that had the effect.
stamp as (
    update user_state us
    set revision = us.revision + 1
    from won
    where us.user_id = $1
    returning us.revision
)

-- fragment: holds
-- What the key holds, for everybody who asked.
exists (select from won) as first, k.fingerprint, k.status, k.result

-- fragment: json
-- A task as JSON, read again by db.task.Task: a time is told in UTC whatever the server's zone is.
json_build_object('id', @.id, 'user_id', @.user_id, 'title', @.title, 'description', @.description,
        'status', @.status, 'completed', @.status = 'completed', 'priority', @.priority,
        'priority_label', (array['lowest', 'low', 'medium', 'high', 'highest'])[@.priority],
        'due_date', {told @.due_date}, 'created_at', {told @.created_at}, 'updated_at', {told @.updated_at},
        'completed_at', {told @.completed_at}, 'deleted_at', {told @.deleted_at}, 'revision', @.revision)

-- fragment: line
-- The same as one line of text: less work for the server than an object, and than columns for both.
concat('{"id":', @.id, ',"user_id":', to_json(@.user_id), ',"title":', to_json(@.title),
            ',"description":', coalesce(to_json(@.description)::text, 'null'), ',"status":"', @.status,
            '","completed":', case @.status when 'completed' then 'true' else 'false' end, ',"priority":', @.priority,
            ',"priority_label":"', (array['lowest', 'low', 'medium', 'high', 'highest'])[@.priority],
            '","due_date":', {quoted @.due_date}, ',"created_at":', {quoted @.created_at},
            ',"updated_at":', {quoted @.updated_at}, ',"completed_at":', {quoted @.completed_at},
            ',"deleted_at":', {quoted @.deleted_at}, ',"revision":', @.revision, '}')

-- fragment: quoted
-- The same in quotes, or null.
coalesce(left(to_json(@ at time zone 'UTC')::text, -1) || 'Z"', 'null')

-- Conversations.

-- fragment: conversation
-- A conversation's columns, in the order of the JSON.
@.id, @.user_id, @.title, @.created_at, @.updated_at

-- fragment: message
-- A message's columns, in the order of the JSON.
@.id, @.conversation_id, @.user_id, @.role, @.content, @.created_at

-- fragment: conversation_json
-- A conversation as JSON, read again by db.conversations.Conversation.
json_build_object('id', @.id, 'user_id', @.user_id, 'title', @.title,
        'created_at', {told @.created_at},
        'updated_at', {told @.updated_at})

-- fragment: message_json
-- A message as JSON, read again by db.conversations.Message.
json_build_object('id', @.id, 'conversation_id', @.conversation_id, 'user_id', @.user_id, 'role', @.role,
        'content', @.content, 'created_at', {told @.created_at})

-- fragment: talk
-- The conversation @ of the caller; its version stands where a task has its revision.
select t.version as revision, {conversation t}
    from caller c
    join conversations t on t.user_id = c.user_id
    where t.id = @

-- fragment: stamp_talk
-- The next number of the caller's conversations, taken only if @ has a row.
stamp as (
    update user_state us
    set conversations_revision = us.conversations_revision + 1
    from @
    where us.user_id = $1
    returning us.conversations_revision as revision
)

-- fragment: said
-- The messages of a JSON array of roles and contents, in their order.
select d.role, d.content
        from rows from (json_to_recordset(@::text::json) as (role text, content text)) with ordinality as d (role, content, place)
        order by d.place

-- Pieces of a batch.

-- fragment: folded
-- What the operations in the text @ come to, from the tasks as they are locked: `fold` applies to each task its operations
-- one after the other (its row of step 0 is the stored one), `outcome` has the state after each operation, with the revision
-- that it takes, and `tally` whether all are fine. Ids are drawn in the order of operations.
operation as materialized (
    select o.n, o.op, o.id, o.if_revision, o.title, o.description, o.set_description, o.status, o.reopen, o.priority,
        o.due_date, o.set_due_date, row_number() over (partition by o.id order by o.n) as step
    from jsonb_to_recordset(@::text::jsonb) as o (
        n int, op text, id bigint, if_revision bigint, title text, description text, set_description boolean,
        status text, reopen boolean, priority smallint, due_date timestamptz, set_due_date boolean)
),
old as materialized (
    select {stored t}
    from caller c
    join tasks t on t.user_id = c.user_id
    where t.id = any(array(select o.id from operation o))
    order by t.id
    for no key update of t
),
fold as (
    select t.id, 0::bigint as step, null::int as n, 'same' as verdict, t.title::text, t.description, t.status,
        t.priority, t.due_date, t.created_at, t.updated_at, t.completed_at, t.deleted_at, t.revision, {now} as moment
    from old t
    union all
    select nextval('tasks_id_seq'), null, b.n, 'done', b.title, b.description, b.status, b.priority, b.due_date,
        b.moment, b.moment, case when b.status = 'completed' then b.moment end, null, 0, b.moment
    from (
        select o.n, o.title, o.description, o.status, o.priority, o.due_date, statement_timestamp() as moment
        from caller c
        cross join operation o
        where o.op = 'create'
        order by o.n
    ) b
    union all
    select f.id, p.step, p.n,
        case when f.deleted_at is not null and p.op <> 'restore' then 'absent'
             when p.if_revision <> f.revision then 'moved'
             when (w.title, w.description, w.status, w.priority, w.due_date, w.deleted_at)
                 is distinct from (f.title, f.description, f.status, f.priority, f.due_date, f.deleted_at) then 'done'
             else 'same' end,
        w.title, w.description, w.status, w.priority, w.due_date, f.created_at, f.updated_at,
        case when w.status = 'completed' then coalesce(f.completed_at, f.moment) end, w.deleted_at, f.revision, f.moment
    from fold f
    join operation p on p.id = f.id and p.step = f.step + 1
    cross join lateral (
        select coalesce(p.title, f.title) as title,
            case when p.set_description then p.description else f.description end as description,
            coalesce(p.status, case
                when f.status = 'completed' and (p.op = 'toggle' or p.reopen) then 'pending'
                when p.op = 'toggle' then 'completed' end, f.status) as status,
            coalesce(p.priority, f.priority) as priority,
            case when p.set_due_date then p.due_date else f.due_date end as due_date,
            case p.op when 'delete' then f.moment when 'restore' then null else f.deleted_at end as deleted_at
    ) w
),
judged as (
    select p.n, p.op, coalesce(f.verdict, 'absent') as verdict, f.id, c.user_id, f.title, f.description, f.status, f.priority,
        f.due_date, f.created_at, f.updated_at, f.completed_at, f.deleted_at, f.revision, f.moment,
        c.revision + count(*) filter (where f.verdict = 'done') over (order by p.n) as taken
    from caller c
    cross join operation p
    left join fold f on f.n = p.n
),
outcome as materialized (
    select j.n, j.op, j.verdict, j.id, j.user_id, j.title, j.description, j.status, j.priority, j.due_date, j.created_at,
        case when max(j.taken) filter (where j.verdict = 'done') over own is null
            then j.updated_at else j.moment end as updated_at,
        j.completed_at, j.deleted_at,
        coalesce(max(j.taken) filter (where j.verdict = 'done') over own, j.revision) as revision
    from judged j
    window own as (partition by j.id order by j.n)
),
tally as (
    select min(o.n) filter (where o.verdict in ('absent', 'moved')) as failed,
        count(*) filter (where o.verdict = 'done') as changes
    from outcome o
)

-- fragment: applied
-- What a batch that has `won` writes: each task as its last change left it.
stamp as (
    update user_state us
    set revision = us.revision + t.changes
    from tally t, won
    where us.user_id = $1 and t.changes > 0
    returning us.revision
),
done as (
    update tasks t
    set title = l.title, description = l.description, status = l.status, priority = l.priority, due_date = l.due_date,
        updated_at = l.updated_at, completed_at = l.completed_at, deleted_at = l.deleted_at, revision = l.revision
    from stamp s, (
        select distinct on (o.id) o.id, o.title, o.description, o.status, o.priority, o.due_date, o.updated_at,
            o.completed_at, o.deleted_at, o.revision
        from outcome o
        where o.verdict = 'done' and o.op <> 'create'
        order by o.id, o.n desc
    ) l
    where t.id = l.id
),
made as (
    insert into tasks (id, user_id, title, description, status, priority, due_date, created_at, updated_at, completed_at,
        revision)
    select o.id, o.user_id, o.title, o.description, o.status, o.priority, o.due_date, o.created_at, o.updated_at,
        o.completed_at, o.revision
    from stamp s
    cross join outcome o
    where o.op = 'create'
    order by o.n
)

-- Pieces of purge.sql and archive.sql, which work on many rows of many users at once.

-- fragment: turn
-- Several purges take turns, statement by statement: whose it is not, finds nothing.
turn as materialized (
    select pg_try_advisory_xact_lock(8245920372) as mine
)

-- fragment: batch
-- What became of a batch, but for the place where it ended.
select t.mine, (select count(*) from due) as found, (select count(*) from done) as removed

-- fragment: held
-- The users of `@`, locked before anything of theirs, in one order.
held as materialized (
    select us.user_id
    from user_state us
    where us.user_id = any(array(select x.user_id from @ x))
    order by us.user_id
    for no key update of us {lock}
)

-- fragment: lock_free
skip locked

-- fragment: lock_free_size
1000

-- fragment: lock_busy

-- fragment: lock_busy_size
1

-- fragment: buried
-- For each task of `done` a revision and a bare tombstone, as tasks.erase leaves them. The ids travel with the stamp of
-- their user, because the planner would join them to it row by row.
taken as (
    select d.user_id, array_agg(d.id order by d.id) as ids from done d group by d.user_id
),
stamps as (
    update user_state us
    set revision = us.revision + cardinality(k.ids)
    from taken k
    where us.user_id = k.user_id
    returning us.user_id, us.revision - cardinality(k.ids) as base, k.ids
),
graves as (
    insert into tombstones (user_id, task_id, revision, deleted_at)
    select s.user_id, i.id, s.base + i.step, statement_timestamp()
    from stamps s, unnest(s.ids) with ordinality i (id, step)
    on conflict (user_id, task_id) do update
    set revision = excluded.revision, deleted_at = excluded.deleted_at
)

-- fragment: archived
-- A task's columns as an archive keeps them: all but `deleted_at`, for only live ones are archived.
@.id, @.user_id, @.title, @.description, @.status, @.priority, @.due_date,
        @.created_at, @.updated_at, @.completed_at, @.revision, @.import_key

-- fragment: given
-- Tasks of an archive, in a text of JSON: asyncpg asks the server about array types.
given as materialized (
    select {archived g}
    from json_to_recordset($1::text::json) g (id bigint, user_id text, title text, description text, status text,
        priority smallint, due_date timestamptz, created_at timestamptz, updated_at timestamptz,
        completed_at timestamptz, revision bigint, import_key text)
)

-- fragment: nobody
-- Whether the user of the given task is no more.
(select us.user_id from user_state us where us.user_id = g.user_id) is null

-- fragment: there
-- Whether the given task is there already: under its id, or under the key that it was imported or came back by.
(exists (select from tasks t where t.id = g.id and t.user_id = g.user_id)
          or exists (select from tasks t where t.user_id = g.user_id and t.import_key = {came_back_by}))

-- fragment: came_back_by
coalesce(g.import_key, 'archive:' || g.id)

-- Pieces of the family tasks.list. Filters have neutral values, so that one statement serves any set of them.

-- fragment: unknown
-- Whether the client's version no longer holds: the revision has moved, or time has passed.
(c.revision is distinct from $3 or extract(epoch from now()) * 1000000 > $4::bigint)

-- fragment: unknown_each
-- The same of request r of many.
(c.revision is distinct from r.revision or extract(epoch from now()) * 1000000 > r.until)

-- fragment: overdue
coalesce(t.due_date < now() and t.status <> 'completed', false)

-- fragment: scope_live
t.deleted_at is null

-- fragment: scope_live_index
tasks_user_id_created_at_id_idx

-- fragment: scope_trash
t.deleted_at is not null

-- fragment: scope_trash_index
tasks_trash_idx

-- fragment: page
-- The rows of a page, of tasks t.
t.user_id = $1 and {scope} and {unknown}
      and ({sort t}, t.id) {way_beyond} ($7::text::{sort_type}, $8)
      {rows}
    order by {sort t} {way}, t.id {way}
    {rows_limit}

-- fragment: walk
select {stored t}
    from tasks t
    where {page}

-- fragment: rows_plain

-- fragment: rows_plain_limit
-- Hidden from the planner, who would think a page of known size cheaper than one of any, and plan for 200 us each time. The plan is the same.
limit (select $6::bigint) offset (select $5::bigint)

-- fragment: rows_plain_page
{walk}

-- fragment: rows_plain_index
{scope_index}

-- fragment: rows_plain_takes

-- fragment: rows_plain_until
null::bigint

-- fragment: rows_filtered
{filters}

-- fragment: rows_filtered_limit
limit $6 offset $5

-- fragment: rows_filtered_page
{walk}

-- fragment: rows_filtered_index
{scope_index}

-- fragment: rows_filtered_takes
{filters_takes}

-- fragment: rows_filtered_until
{filters_until}

-- fragment: filters
and t.status = any(string_to_array($9, ','))
      and t.priority = any(string_to_array($10, ',')::smallint[])
      and case when t.due_date is null then $11 else
          t.due_date >= $12::text::timestamptz and t.due_date < $13::text::timestamptz end
      and t.created_at >= $14::text::timestamptz and t.created_at < $15::text::timestamptz
      and t.updated_at >= $16::text::timestamptz
      and case $17 when 'yes' then {overdue} when 'no' then not {overdue} else true end

-- fragment: filters_takes
, statuses text, priorities text, without_due_date boolean, due_after text, due_before text, created_after text, created_before text, updated_after text, overdue text

-- fragment: filters_until
case when $17 <> 'any' and {unknown} then (
        select (extract(epoch from min(t.due_date)) * 1000000)::bigint
        from tasks t
        where t.user_id = $1 and {scope} and t.status <> 'completed' and t.due_date >= now()) end

-- fragment: rows_plain_with

-- fragment: rows_filtered_with

-- fragment: rows_searched_with
,
words as materialized (
    select array_agg('%' || w || '%') as anywhere, array_agg('(^|[^[:alnum:]])' || w) as at_start
    from regexp_split_to_table(lower($18::text), '[^[:alnum:]]+') w
    where w <> ''
),
hits as materialized (
    select x.task_id
    from caller c, task_texts x
    where x.user_id = $1 and {unknown}
      and case when x.text like all ((select anywhere from words)::text[]) and x.text ~ all ((select at_start from words)::text[])
          then true else char_length(x.text) = 300 end
    limit 4 * $6::bigint + 1
),
many as materialized (
    select count(*) > 4 * $6::bigint as yes from hits
)

-- fragment: few
-- The tasks that were hit, where they are few. The limit keeps the planner from reading all the user's tasks to join them.
hits h
    cross join lateral (select {stored t} from tasks t where t.id = h.task_id limit 1) t
    where not (select yes from many)

-- fragment: rows_searched_page
(select {stored t}
    from {few} and {page})
    union all
    (select {stored t}
    from tasks t
    where (select yes from many) and {page})

-- fragment: rows_searched_index
{scope_index}, task_texts_pkey

-- fragment: rows_searched
{filters}
      and case when {text} like all ((select anywhere from words)::text[])
          then {text} ~ all ((select at_start from words)::text[]) else false end

-- fragment: rows_searched_limit
limit $6 offset $5

-- fragment: rows_searched_takes
{filters_takes}, q text

-- fragment: rows_searched_until
{filters_until}

-- fragment: text
lower((t.title || ' ' || coalesce(t.description, '')) collate "default")

-- fragment: total_without
null::bigint

-- fragment: count
select count(*) from tasks t where t.user_id = $1 and {scope} {rows}

-- fragment: rows_plain_count
{count}

-- fragment: rows_filtered_count
{count}

-- fragment: rows_searched_count
select case when (select yes from many)
            then ({count})
            else (select count(*) from {few} and t.user_id = $1 and {scope} {rows}) end

-- fragment: total_counted
case when {unknown} then ({rows_count}) end

-- fragment: sort_created_at
@.created_at

-- fragment: sort_created_at_type
timestamptz

-- fragment: sort_updated_at
@.updated_at

-- fragment: sort_updated_at_type
timestamptz

-- fragment: sort_due_date
coalesce(@.due_date, {way_end})

-- fragment: sort_due_date_type
timestamptz

-- fragment: sort_priority
@.priority

-- fragment: sort_priority_type
smallint

-- fragment: sort_title
lower(@.title) collate "C"

-- fragment: sort_title_type
text

-- fragment: sort_status
array_position(array['pending', 'in_progress', 'completed'], @.status)

-- fragment: sort_status_type
int

-- fragment: way_asc
asc

-- fragment: way_asc_beyond
>

-- fragment: way_asc_within
<=

-- fragment: way_asc_end
'infinity'

-- fragment: way_desc
desc

-- fragment: way_desc_beyond
<

-- fragment: way_desc_within
>=

-- fragment: way_desc_end
'-infinity'

-- Pieces of the family admin.list.

-- fragment: who_everyone

-- fragment: who_everyone_takes

-- fragment: who_everyone_index
users_pkey

-- fragment: who_addressed
and lower(u.email) = lower($7)

-- fragment: who_addressed_takes
, email text

-- fragment: who_addressed_index
users_email_key
