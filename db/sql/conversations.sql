-- Conversations and their messages. Every statement begins with the caller: no row at all means 401.
-- Writes lock user_state, then the conversation, and take the next of the user's conversations_revision as its version.

-- name: list
-- kind: read
-- takes: user_id text, sid uuid, revision bigint, skip bigint, size bigint, after text, after_id bigint
-- rides on: conversations_user_id_updated_at_id_idx, sessions_pkey, user_state_pkey
-- A page of conversations, newest activity first, with the number of changes that it was read at: beyond (`after`,
-- `after_id`), past `skip` rows, `size` at most. Nothing is read, and one row without an id comes back, where that number
-- is still `revision`.
with {caller}
select c.conversations_revision as list_revision, p.updated_at::text as position, {conversation p}
from caller c
left join lateral (
    select {conversation t}
    from conversations t
    where t.user_id = $1 and c.conversations_revision is distinct from $3
      and (t.updated_at, t.id) < ($6::text::timestamptz, $7)
    order by t.updated_at desc, t.id desc
    limit $5 offset $4
) p on true
order by p.updated_at desc, p.id desc

-- name: get
-- kind: read
-- takes: user_id text, sid uuid, conversation_id bigint
-- rides on: conversations_pkey, sessions_pkey, user_state_pkey
-- One conversation and its version. A row without an id: no such conversation.
with {caller}
select t.version, {conversation t}
from caller c
left join conversations t on t.id = $3 and t.user_id = c.user_id

-- name: create
-- kind: write
-- takes: user_id text, sid uuid, title text
-- rides on: sessions_pkey, user_state_pkey
-- A new conversation. Stamping is its lock, as for a task.
with stamp as (
    update user_state us
    set conversations_revision = us.conversations_revision + 1
    from sessions s
    where {alive}
    returning us.user_id, us.conversations_revision
)
insert into conversations as t (user_id, title, version)
select s.user_id, $3, s.conversations_revision
from stamp s
returning t.version, {conversation t}

-- name: create_once
-- kind: keyed
-- takes: user_id text, sid uuid, route text, key text, fingerprint bytea, title text
-- rides on: sessions_pkey, user_state_pkey
-- A new conversation under an idempotency key; the result is an object of its version and the conversation.
with {caller_locked},
drafted as (
    select nextval('conversations_id_seq') as id, c.user_id, $6::text as title,
        statement_timestamp() as created_at, statement_timestamp() as updated_at,
        c.conversations_revision + 1 as version
    from caller c
),
draft as (
    select 201 as status,
        json_build_object('version', d.version, 'conversation', {conversation_json d})::text as result
    from drafted d
),
{kept},
{stamp_talk won},
done as (
    insert into conversations (id, user_id, title, version, created_at, updated_at)
    select d.id, d.user_id, d.title, s.revision, d.created_at, d.updated_at
    from drafted d, stamp s
)
select {holds}
from kept k

-- name: update
-- kind: write
-- takes: user_id text, sid uuid, conversation_id bigint, if_match text, set_title boolean, title text
-- rides on: conversations_pkey, sessions_pkey, user_state_pkey
-- Merge patch of a conversation: its title stays where `set_title` is false. `if_match`: versions that it may have, with
-- commas, null for any. What changes nothing moves no version.
with {caller_locked},
old as (
    {talk $3}
    for no key update of t
),
new as (
    select o.id, case when $5 then $6::text else o.title end as title
    from old o
    where {matching}
),
changed as (
    select n.id, n.title
    from new n
    join old o on o.id = n.id
    where n.title is distinct from o.title
),
{stamp_talk changed},
done as (
    update conversations t
    set title = ch.title, version = s.revision, updated_at = {now}
    from changed ch, stamp s
    where t.id = ch.id
    returning t.version as revision, {conversation t}
),
answer as (
    select d.revision, {conversation d} from done d
    union all
    select o.revision, {conversation o} from old o where not exists (select from done)
)
select {verdict}, a.revision as version, {conversation a}
{steps}
left join answer a on true

-- name: delete
-- kind: write
-- takes: user_id text, sid uuid, conversation_id bigint, if_match text
-- rides on: conversations_pkey, sessions_pkey, user_state_pkey
-- A conversation gone for good, with all its messages. A trigger counts it in conversations_revision.
with {caller_locked},
old as (
    {talk $3}
    for update of t
),
new as (
    select o.id from old o where {matching}
),
done as (
    delete from conversations t
    using new n
    where t.id = n.id
    returning t.id
)
select {verdict}
{steps}

-- name: list_messages
-- kind: read
-- each: way asc desc
-- takes: user_id text, sid uuid, conversation_id bigint, version bigint, skip bigint, size bigint, after_id bigint
-- rides on: messages_conversation_id_id_idx, conversations_pkey, sessions_pkey, user_state_pkey
-- A page of a conversation's messages and the version that it was read at: beyond `after_id`, past `skip` rows, `size`
-- at most. A row without a version: no such conversation. No message is read where it still has `version`.
-- The order is that of ids. They are drawn under the user's lock, so they grow in the order of commits.
-- Two rows are compared, since `id > $7` alone would tempt the planner into the primary key and through others' messages.
with {caller}
select t.version as list_version, {message p}
from caller c
left join conversations t on t.id = $3 and t.user_id = c.user_id
left join lateral (
    select {message m}
    from messages m
    where m.conversation_id {way_within} t.id and (m.conversation_id, m.id) {way_beyond} (t.id, $7)
      and t.version is distinct from $4
    order by m.conversation_id {way}, m.id {way}
    limit $6 offset $5
) p on true
order by p.id {way}

-- name: create_messages
-- kind: write
-- takes: user_id text, sid uuid, conversation_id bigint, drafts text
-- rides on: conversations_pkey, sessions_pkey, user_state_pkey
-- New messages at the end of a conversation, which moves with them. `drafts`: a JSON array of roles and contents, in their
-- order. One row without an id: no such conversation.
with {caller_locked},
changed as (
    {talk $3}
    for no key update of t
),
{stamp_talk changed},
moved as (
    update conversations t
    set version = s.revision, updated_at = {now}
    from changed ch, stamp s
    where t.id = ch.id
    returning t.id, t.user_id, t.updated_at
),
done as (
    insert into messages as m (conversation_id, user_id, role, content, created_at)
    select v.id, v.user_id, d.role, d.content, v.updated_at
    from moved v, ({said $4}) d
    returning {message m}
)
select {message d}
from caller c
left join done d on true
order by d.id

-- name: create_messages_once
-- kind: keyed
-- takes: user_id text, sid uuid, route text, key text, fingerprint bytea, conversation_id bigint, drafts text
-- rides on: conversations_pkey, sessions_pkey, user_state_pkey
-- The same under an idempotency key; the result is an array of the messages, null where there is no such conversation.
-- What the key holds comes first: an answer stays although its conversation is gone.
with {caller_locked},
changed as (
    {talk $6}
    for no key update of t
),
drafted as (
    select nextval('messages_id_seq') as id, t.id as conversation_id, t.user_id, d.role, d.content, {now} as created_at
    from changed t, ({said $7}) d
),
draft as (
    select 201 as status, (select json_agg({message_json d} order by d.id) from drafted d)::text as result
    from caller c
),
{kept},
{stamp_talk won},
moved as (
    update conversations t
    set version = s.revision, updated_at = {now}
    from changed ch, stamp s
    where t.id = ch.id
),
done as (
    insert into messages (id, conversation_id, user_id, role, content, created_at)
    select d.id, d.conversation_id, d.user_id, d.role, d.content, d.created_at
    from drafted d, stamp s
)
select {holds}
from kept k
