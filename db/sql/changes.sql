-- Incremental sync. A user's revisions are in the order of commits, so a snapshot that has one has all before it.

-- name: list
-- kind: read
-- takes: user_id text, sid uuid, revision bigint, purged bigint, since bigint, begun bigint, size bigint
-- rides on: tasks_user_id_revision_idx, tombstones_user_id_revision_idx, sessions_pkey, user_state_pkey
-- What changed past revision `since`, by revision, `size` rows at most: tasks wherever they are, and the tombstones of erased
-- ones, which have an id, an owner, a revision and deleted_at alone. A row without an id: no change, or none is told.
-- The user's revision is read in the snapshot of the rows: where they are not cut off by `size`, all up to it has been told.
-- `gone`: something may be missing. It is where `since` lies past the user's revision, which only a database that was
-- restored can have taken back; on the first page of a walk (`begun` is null) where 0 < since < purged_revision: whoever has
-- all up to `since` misses nothing that was dropped up to it, and who has nothing misses no tombstone; on a later page
-- where purged_revision is not what it was when the walk began: what was dropped may be a task that the walk has told of.
-- `same`: the client has this page, of the user's `revision` and `purged` revision; nothing is read.
-- Both branches come in the order of their index and are merged. Their limits are subselects because of a known number the
-- planner would compare with how few tasks it thinks there are past `since`, where that is far for most users but not for
-- this one; it would read them all and sort them, page after page.
with caller as (
    select us.revision, us.purged_revision,
        case when $5 > us.revision then 'gone'
             when $6::bigint is null and $5 > 0 and $5 < us.purged_revision then 'gone'
             when $6 <> us.purged_revision then 'gone'
             when $3 = us.revision and $4 = us.purged_revision then 'same'
             else 'done' end as verdict
    from sessions s, user_state us
    where {alive}
)
select c.verdict, c.revision as changes_revision, c.purged_revision, p.erased, {task p}
from caller c
left join lateral (
    select {stored b}, b.erased
    from (
        (select {stored t}, false as erased
         from tasks t
         where t.user_id = $1 and t.revision > $5 and c.verdict = 'done'
         order by t.revision
         limit (select $7::bigint))
        union all
        (select g.task_id, g.user_id, null, null, null, null, null, null, null, null, g.deleted_at, g.revision, true
         from tombstones g
         where g.user_id = $1 and g.revision > $5 and c.verdict = 'done'
         order by g.revision
         limit (select $7::bigint))
    ) b
    order by b.revision
    limit $7
) p on true
order by p.revision
