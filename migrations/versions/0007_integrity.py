"""Integrity.

What SQL by hand could still break: the id of a task, the state of a user, whose a message is, what sync remembers. And the
triggers that stamp and bury take work by the number of rows, whatever the planner believes about the tables.
"""

from importlib import import_module

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# No table is joined to a transition table. The planner takes one row in 200 of it for the unstamped ones, and a table that was
# vacuumed while it was empty for a single row; a nested loop of two such is quadratic. Arrays it knows the length of.
LOCK = """
    execute $sql$
        select us.user_id
        from user_state us
        where us.user_id = any($1)
        order by us.user_id
        for no key update of us
    $sql$ using users;"""
BUMP = """
    execute $sql$
        with stamp as (
            update user_state us
            set {0} = us.{0} + ($2 ->> us.user_id)::bigint
            where us.user_id = any($1)
            returning us.user_id, us.{0} - ($2 ->> us.user_id)::bigint as base
        )
        select jsonb_object_agg(s.user_id, s.base) from stamp s
    $sql$ into bases using users, counts;"""
# Of the users named in `counts` those that stay.
STAYING = """
    execute 'select array_agg(u.id) from users u where u.id = any($1)'
        into users using array(select jsonb_object_keys(counts));"""

STAMP = """
declare
    counts jsonb;
    users text[];
    bases jsonb;
    ids bigint[];
    numbers bigint[];
begin
    if not exists (select from written w where w.{number} = 0) then
        return null;
    end if;
    counts := (
        select jsonb_object_agg(n.user_id, n.rows)
        from (select w.user_id, count(*) as rows from written w where w.{number} = 0 group by w.user_id) n);
    users := array(select jsonb_object_keys(counts));{lock}{bump}
    select array_agg(n.id order by n.id), array_agg(n.number order by n.id)
    into ids, numbers
    from (
        select w.id,
            (bases ->> w.user_id)::bigint + row_number() over (partition by w.user_id order by w.id) as number
        from written w
        where w.{number} = 0
    ) n
    where n.number is not null;
    execute $sql$
        update {table} t
        set {number} = $2[width_bucket(t.id, $1)]
        where t.id = any($1)
    $sql$ using ids, numbers;
    return null;
end
"""
UNBURIED = """g.revision >= coalesce(
                (select b.revision from tombstones b where b.user_id = g.user_id and b.task_id = g.id), 0)"""

# Comment, body; a comment of None: as it was.
FUNCTIONS = {
    "tasks_stamp": (
        None,
        STAMP.format(table="tasks", number="revision", lock=LOCK, bump=BUMP.format("revision")),
    ),
    "tasks_bury": (
        None,
        f"""
declare
    counts jsonb;
    users text[];
    bases jsonb;
begin
    if not exists (select from gone g where {UNBURIED}) then
        return null;
    end if;
    counts := (
        select jsonb_object_agg(n.user_id, n.rows)
        from (select g.user_id, count(*) as rows from gone g where {UNBURIED} group by g.user_id) n);
{STAYING}{LOCK}{BUMP.format("revision")}
    insert into tombstones (user_id, task_id, revision, deleted_at)
    select g.user_id, g.id,
        (bases ->> g.user_id)::bigint + row_number() over (partition by g.user_id order by g.id),
        statement_timestamp()
    from gone g
    where bases ? g.user_id and {UNBURIED}
    on conflict (user_id, task_id) do update
    set revision = excluded.revision, deleted_at = excluded.deleted_at;
    return null;
end
""",
    ),
    "conversations_stamp": (
        None,
        STAMP.format(
            table="conversations", number="version", lock=LOCK, bump=BUMP.format("conversations_revision")
        ),
    ),
    "conversations_count": (
        None,
        f"""
declare
    counts jsonb := (
        select jsonb_object_agg(n.user_id, n.rows)
        from (select g.user_id, count(*) as rows from gone g group by g.user_id) n);
    users text[];
    bases jsonb;
begin
    if counts is null then
        return null;
    end if;
{STAYING}{LOCK}{BUMP.format("conversations_revision")}
    return null;
end
""",
    ),
    "messages_move": (
        None,
        f"""
declare
    touched bigint[];
    users text[];
begin
    if tg_op = 'UPDATE' then
        execute $sql$
            select array_agg(distinct w.conversation_id)
            from written w
            join replaced r on r.id = w.id
            where (w.role, w.content) is distinct from (r.role, r.content)
        $sql$ into touched;
    else
        touched := array(select distinct w.conversation_id from written w);
    end if;
    touched := array(
        select t.id
        from conversations t
        where t.id = any(touched) and t.xmin <> pg_current_xact_id()::xid
          and (select u.id from users u where u.id = t.user_id) is not null);
    if cardinality(touched) = 0 then
        return null;
    end if;
    users := array(select distinct t.user_id from conversations t where t.id = any(touched));{LOCK}
    execute $sql$
        update conversations t
        set version = 0, updated_at = greatest(statement_timestamp(), t.updated_at)
        where t.id = any($1)
    $sql$ using touched;
    return null;
end
""",
    ),
    "tombstones_forget": (
        "Sends a sync that began before the tombstones deleted back to its start, unless their tasks are there again.",
        f"""
declare
    tops jsonb := (
        select jsonb_object_agg(n.user_id, n.top)
        from (
            select g.user_id, max(g.revision) as top
            from gone g
            where (select t.id from tasks t where t.id = g.task_id and t.user_id = g.user_id) is null
            group by g.user_id
        ) n);
    users text[] := array(select jsonb_object_keys(tops));
begin{LOCK}
    execute $sql$
        update user_state us
        set purged_revision = least(($2 ->> us.user_id)::bigint, us.revision)
        where us.user_id = any($1) and us.purged_revision < least(($2 ->> us.user_id)::bigint, us.revision)
    $sql$ using users, tops;
    return null;
end
""",
    ),
    "sync_restart": (
        "Sends every sync back to its start, after a truncate that leaves nothing to tell, and lets the texts go too.",
        """
begin
    perform us.user_id from user_state us order by us.user_id for no key update of us;
    update user_state us
    set revision = us.revision + 1, purged_revision = us.revision + 1;
    if tg_table_name = 'tasks' then
        delete from task_texts;
    end if;
    return null;
end
""",
    ),
    "refuse_delete": (
        "Refuses to delete rows that go with their user.",
        """
begin
    raise exception 'rows of % go with their user only', tg_table_name
        using errcode = 'integrity_constraint_violation', table = tg_table_name, constraint = tg_name;
end
""",
    ),
    "refuse_stranger": (
        "Refuses messages of another user than their conversation's.",
        """
begin
    if exists (
        select from written w
        where w.user_id <> (select t.user_id from conversations t where t.id = w.conversation_id)
    ) then
        raise exception 'messages belong to the user of their conversation'
            using errcode = 'integrity_constraint_violation',
                  table = tg_table_name, column = 'user_id', constraint = tg_name;
    end if;
    return null;
end
""",
    ),
}
# What is looked up once for each row must not be read whole because it was small when it was planned.
SETTINGS = dict.fromkeys(
    ("tasks_bury", "messages_move", "tombstones_forget", "refuse_stranger"), "\nset enable_seqscan = off"
)

# Name: table, event, how, function. None before an update of user_state: PostgreSQL would lock its row twice for every write.
TRIGGERS = {
    "user_state_kept": (
        "user_state",
        "before delete",
        "for each row when (pg_trigger_depth() = 0)",
        "refuse_delete()",
    ),
    "user_state_is_active_fixed": (
        "user_state",
        "after update of is_active",
        "for each row when (old.is_active <> new.is_active and pg_trigger_depth() = 0)",
        "refuse_change('is_active')",
    ),
    "tasks_id_fixed": (
        "tasks",
        "before update of id",
        "for each row when (old.id <> new.id)",
        "refuse_change('id')",
    ),
    "tasks_truncate_told": ("tasks", "after truncate", "for each statement", "sync_restart()"),
    "tombstones_delete_told": (
        "tombstones",
        "after delete",
        "referencing old table as gone for each statement",
        "tombstones_forget()",
    ),
    "tombstones_truncate_told": ("tombstones", "after truncate", "for each statement", "sync_restart()"),
    "messages_user_id_owned": (
        "messages",
        "after insert",
        "referencing new table as written for each statement",
        "refuse_stranger()",
    ),
}

# The texts that these functions had, out of the migrations that gave them: those never change.
FORMER = {
    name: import_module(f"migrations.versions.{file}").FUNCTIONS[name]
    for file, names in {
        "0003_triggers": ("tasks_stamp", "tasks_bury"),
        "0006_conversations": ("conversations_stamp", "conversations_count", "messages_move"),
    }.items()
    for name in names
}


def upgrade() -> None:
    for name, (comment, body) in FUNCTIONS.items():
        _function(name, body, SETTINGS.get(name, ""))
        if comment:
            quoted = comment.replace("'", "''")
            op.execute(f"comment on function {name}() is '{quoted}'")
    # Each by itself: together they would hold tables that writers take in another order.
    with op.get_context().autocommit_block():
        for name, (table, event, how, what) in TRIGGERS.items():
            op.execute(f"create or replace trigger {name} {event} on {table} {how} execute function {what}")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        for name, (table, *_) in TRIGGERS.items():
            op.execute(f"drop trigger if exists {name} on {table}")
    for name, (_, body) in FORMER.items():
        _function(name, body)
    for name in FUNCTIONS:
        if name not in FORMER:
            op.execute(f"drop function {name}()")


def _function(name: str, body: str, settings: str = "") -> None:
    op.execute(
        f"create or replace function {name}() returns trigger\nlanguage plpgsql\n"
        f"set search_path = public, pg_temp{settings}\nas $body${body}$body$"
    )
