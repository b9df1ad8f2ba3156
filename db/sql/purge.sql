-- Retention: what is past it goes, in batches that are a statement and a transaction each: whoever is killed leaves whole
-- batches and no lock. A batch begins beyond `place` (a JSON array) and tells the place where it ended, null at the
-- end. `lock free` takes a thousand rows of users whom nobody is writing to and passes by the others; `lock busy` waits for
-- their writers with one row, so that nobody ever waits behind somebody else. (A batch is deleted by id or ctid: the planner
-- would join it to a table that seems small by reading that whole, each time.)

-- name: count
-- kind: read
-- takes: age bigint
-- rides on:
-- What there is to remove: older than `age` seconds, keys older than a day; and the two moments. Each table is read once, for
-- nothing is indexed by its age.
select p.before, p.keys_before,
    (select count(*) from tasks t where t.deleted_at < p.before) as tasks,
    (select count(*) from tombstones b where b.deleted_at < p.before) as tombstones,
    (select count(*) from sessions s
        where (s.revoked_at < p.before and s.refresh_hash <> '') or s.expires_at < p.before) as sessions,
    (select count(*) from idempotency_keys k where k.created_at < p.keys_before) as keys
from (select now() - $1::bigint * interval '1 second' as before, now() - interval '24 hours' as keys_before) p

-- name: tasks
-- kind: write
-- each: lock free busy
-- takes: before timestamptz, place text
-- rides on: tasks_trash_idx, tasks_pkey, user_state_pkey
-- Erases what has been in the trash since `before`. Walks the index of the trash, user by user: it is as small as the trash
-- is, while the table by id would be read whole to find the few.
with {turn},
due as materialized (
    select t.id, t.user_id
    from tasks t
    where t.deleted_at < $1 and (t.user_id, t.id) > ($2::text::json->>0, ($2::text::json->>1)::bigint)
      and (select mine from turn)
    order by t.user_id, t.id
    limit {lock_size}
),
{held due},
done as (
    delete from tasks t
    where t.id = any(array(select d.id from due d)) and t.user_id = any(array(select h.user_id from held h))
      and t.deleted_at < $1
    returning t.id, t.user_id
),
{buried}
{batch},
    (select json_build_array(d.user_id, d.id)::text from due d order by d.user_id desc, d.id desc limit 1) as place
from turn t

-- name: tombstones
-- kind: write
-- each: lock free busy
-- takes: before timestamptz, place text
-- rides on: tombstones_user_id_revision_idx, user_state_pkey
-- Drops tombstones from before `before`. A sync that has not come to the last one dropped would never hear of it: that is
-- what `purged_revision` says, and nothing else moves it. Those that a purge leaves itself are young, and stay.
with {turn},
due as materialized (
    select b.ctid as tid, b.user_id, b.revision
    from tombstones b
    where b.deleted_at < $1 and (b.user_id, b.revision) > ($2::text::json->>0, ($2::text::json->>1)::bigint)
      and (select mine from turn)
    order by b.user_id, b.revision
    limit {lock_size}
),
{held due},
done as (
    delete from tombstones b
    where b.ctid = any(array(select d.tid from due d)) and b.user_id = any(array(select h.user_id from held h))
      and b.deleted_at < $1
    returning b.user_id, b.revision
),
marks as (
    update user_state us
    set purged_revision = greatest(us.purged_revision, l.revision)
    from (select d.user_id, max(d.revision) as revision from done d group by d.user_id) l
    where us.user_id = l.user_id
)
{batch},
    (select json_build_array(d.user_id, d.revision)::text from due d order by d.user_id desc, d.revision desc limit 1) as place
from turn t

-- name: sessions
-- kind: write
-- takes: before timestamptz, place text
-- rides on: sessions_pkey
-- Drops sessions that were ended or ran out before `before`, by id, which goes with their age. One that is locked this very
-- moment is left to the next purge. A session of an identity provider's token (which has no `refresh_hash`) stays until the
-- token has expired, whenever it ended: without it the token would open it anew.
with {turn},
due as materialized (
    select s.id
    from sessions s
    where ((s.revoked_at < $1 and s.refresh_hash <> '') or s.expires_at < $1) and s.id > ($2::text::json->>0)::uuid
      and (select mine from turn)
    order by s.id
    limit 1000
    for update of s skip locked
),
done as (
    delete from sessions s
    where s.id = any(array(select d.id from due d))
    returning s.id
)
{batch}, (select json_build_array(d.id)::text from due d order by d.id desc limit 1) as place
from turn t

-- name: keys
-- kind: write
-- takes: before timestamptz, place text
-- rides on: idempotency_keys_pkey
-- Drops idempotency keys from before `before`. One that is being taken anew this very moment is young, and stays.
with {turn},
due as materialized (
    select k.ctid as tid, k.user_id, k.route, k.key
    from idempotency_keys k
    where k.created_at < $1 and (k.user_id, k.route, k.key) > ($2::text::json->>0, $2::text::json->>1, $2::text::json->>2)
      and (select mine from turn)
    order by k.user_id, k.route, k.key
    limit 1000
    for update of k skip locked
),
done as (
    delete from idempotency_keys k
    where k.ctid = any(array(select d.tid from due d))
    returning k.key
)
{batch},
    (select json_build_array(d.user_id, d.route, d.key)::text
        from due d order by d.user_id desc, d.route desc, d.key desc limit 1) as place
from turn t
