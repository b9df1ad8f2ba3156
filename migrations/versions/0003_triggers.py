"""Triggers.

Each user's state, times that tell the truth, and revisions for tasks that were written by hand.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

FUNCTIONS = {
    "users_insert_state": (
        "Gives a new user a row in user_state, whoever inserted the user.",
        """
begin
    insert into user_state (user_id, is_active)
    values (new.id, new.is_active);
    return null;
end
""",
    ),
    "users_update_state": (
        "Copies users.is_active to user_state, where every statement looks.",
        """
begin
    update user_state us
    set is_active = new.is_active
    where us.user_id = new.id;
    return null;
end
""",
    ),
    "keep_updated_at": (
        "Sets updated_at for a write that changed something and did not. Never back: the clock may have been.",
        """
begin
    new.updated_at := greatest(statement_timestamp(), old.updated_at);
    return new;
end
""",
    ),
    "refuse_change": (
        "Refuses to change the column that the trigger names.",
        """
begin
    raise exception '% of % cannot change', tg_argv[0], tg_table_name
        using errcode = 'integrity_constraint_violation',
              table = tg_table_name, column = tg_argv[0], constraint = tg_name;
end
""",
    ),
    "tasks_clear_revision": (
        "Marks a task for tasks_stamp: its content changed and its revision did not. (RETURNING still shows the 0.)",
        """
begin
    new.revision := 0;
    return new;
end
""",
    ),
    "tasks_stamp": (
        "Stamps the tasks that a statement left at revision 0: a range of each user's revisions, in the order of ids.",
        # The rare path is planned anew each time. A cached plan would be the one for the first statement's
        # few rows, and quadratic for the next one's ten thousand.
        """
begin
    if not exists (select from written w where w.revision = 0) then
        return null;
    end if;
    execute $sql$
        select us.user_id
        from user_state us
        where us.user_id in (select w.user_id from written w where w.revision = 0)
        order by us.user_id
        for no key update of us
    $sql$;
    execute $sql$
        with stamp as (
            update user_state us
            set revision = us.revision + n.tasks
            from (
                select w.user_id, count(*) as tasks
                from written w
                where w.revision = 0
                group by w.user_id
            ) n
            where us.user_id = n.user_id
            returning us.user_id, us.revision - n.tasks as base
        )
        update tasks t
        set revision = s.base + n.step
        from (
            select w.id, w.user_id, row_number() over (partition by w.user_id order by w.id) as step
            from written w
            where w.revision = 0
        ) n
        join stamp s on s.user_id = n.user_id
        where t.id = n.id
    $sql$;
    return null;
end
""",
    ),
    "tasks_bury": (
        "Leaves a tombstone with a revision of its own for each task erased without one; none where the user goes too.",
        """
begin
    if not exists (
        select from gone g
        where g.revision >= coalesce(
            (select b.revision from tombstones b where b.user_id = g.user_id and b.task_id = g.id), 0)
    ) then
        return null;
    end if;
    execute $sql$
        select us.user_id
        from user_state us
        where us.user_id in (select g.user_id from gone g)
        order by us.user_id
        for no key update of us
    $sql$;
    execute $sql$
        with unburied as (
            select g.user_id, g.id, row_number() over (partition by g.user_id order by g.id) as step
            from gone g
            join users u on u.id = g.user_id
            where g.revision >= coalesce(
                (select b.revision from tombstones b where b.user_id = g.user_id and b.task_id = g.id), 0)
        ),
        stamp as (
            update user_state us
            set revision = us.revision + n.tasks
            from (select u.user_id, count(*) as tasks from unburied u group by u.user_id) n
            where us.user_id = n.user_id
            returning us.user_id, us.revision - n.tasks as base
        )
        insert into tombstones (user_id, task_id, revision, deleted_at)
        select u.user_id, u.id, s.base + u.step, statement_timestamp()
        from unburied u
        join stamp s on s.user_id = u.user_id
        on conflict (user_id, task_id) do update
        set revision = excluded.revision, deleted_at = excluded.deleted_at
    $sql$;
    return null;
end
""",
    ),
}

USER = "email, name, password_hash, is_active, is_admin, email_verified, image"
CONTENT = "title, description, status, priority, due_date, completed_at, deleted_at"


def _differs(columns: str) -> str:
    old, new = (", ".join(f"{row}.{name}" for name in columns.split(", ")) for row in ("old", "new"))
    return f"({old}) is distinct from ({new})"


# Name: table, event, how, function
TRIGGERS = {
    "users_state_insert": ("users", "after insert", "for each row", "users_insert_state()"),
    "users_state_update": (
        "users",
        "after update of is_active",
        "for each row when (old.is_active <> new.is_active)",
        "users_update_state()",
    ),
    "users_updated_at_kept": (
        "users",
        "before update",
        f"for each row when (old.updated_at = new.updated_at and {_differs(USER)})",
        "keep_updated_at()",
    ),
    **{
        f"{table}_created_at_fixed": (
            table,
            "before update of created_at",
            "for each row when (old.created_at <> new.created_at)",
            "refuse_change('created_at')",
        )
        for table in ("users", "tasks", "conversations", "messages")
    },
    # At depth 0 somebody moves a task to another user, whose revisions it does not fit; a cascade is deeper.
    "tasks_user_id_fixed": (
        "tasks",
        "before update of user_id",
        "for each row when (old.user_id <> new.user_id and pg_trigger_depth() = 0)",
        "refuse_change('user_id')",
    ),
    "tasks_updated_at_kept": (
        "tasks",
        "before update",
        f"for each row when (old.updated_at = new.updated_at and {_differs(CONTENT)})",
        "keep_updated_at()",
    ),
    "tasks_revision_cleared": (
        "tasks",
        "before update",
        f"for each row when (old.revision = new.revision and {_differs(CONTENT)})",
        "tasks_clear_revision()",
    ),
    "tasks_insert_stamped": (
        "tasks",
        "after insert",
        "referencing new table as written for each statement",
        "tasks_stamp()",
    ),
    "tasks_update_stamped": (
        "tasks",
        "after update",
        "referencing new table as written for each statement",
        "tasks_stamp()",
    ),
    "tasks_delete_buried": (
        "tasks",
        "after delete",
        "referencing old table as gone for each statement",
        "tasks_bury()",
    ),
}

# What was written while there were no triggers. (A task erased by hand then left no trace to find.)
REPAIRS = (
    """
insert into user_state (user_id, is_active)
select u.id, u.is_active
from users u
where not exists (select from user_state us where us.user_id = u.id)
on conflict (user_id) do nothing""",
    """
update user_state us
set is_active = u.is_active
from users u
where u.id = us.user_id and u.is_active <> us.is_active""",
    "update tasks set revision = 0 where revision = 0",
)


def upgrade() -> None:
    for name, (comment, body) in FUNCTIONS.items():
        op.execute(
            f"create or replace function {name}() returns trigger\nlanguage plpgsql\n"
            f"set search_path = public, pg_temp\nas $body${body}$body$"
        )
        quoted = comment.replace("'", "''")
        op.execute(f"comment on function {name}() is '{quoted}'")
    for name, (table, event, how, what) in TRIGGERS.items():
        op.execute(f"create or replace trigger {name} {event} on {table} {how} execute function {what}")
    with op.get_context().autocommit_block():
        for statement in REPAIRS:
            op.execute(statement.strip())


def downgrade() -> None:
    for name, (table, *_) in TRIGGERS.items():
        op.execute(f"drop trigger {name} on {table}")
    for name in FUNCTIONS:
        op.execute(f"drop function {name}()")
