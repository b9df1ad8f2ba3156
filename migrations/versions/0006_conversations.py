"""Conversations.

A conversation's version becomes the number of its last change among all of its user's, as a task's revision is;
triggers see to it for conversations and messages that were written by hand.
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

VERSION = "The user's conversations_revision at the last change of it or of its messages; the ETag"
REVISION = "Grows by one with every change of a conversation or of its messages, in the order of commits"

FUNCTIONS = {
    "conversations_clear_version": (
        "Marks a conversation for conversations_stamp: it changed and its version did not. (RETURNING still shows the 0.)",
        """
begin
    new.version := 0;
    return new;
end
""",
    ),
    "conversations_stamp": (
        "Stamps the conversations that a statement left at version 0: a range of each user's numbers, in the order of ids.",
        # Planned anew each time, for the reason that tasks_stamp has.
        """
begin
    if not exists (select from written w where w.version = 0) then
        return null;
    end if;
    execute $sql$
        select us.user_id
        from user_state us
        where us.user_id in (select w.user_id from written w where w.version = 0)
        order by us.user_id
        for no key update of us
    $sql$;
    execute $sql$
        with stamp as (
            update user_state us
            set conversations_revision = us.conversations_revision + n.conversations
            from (
                select w.user_id, count(*) as conversations
                from written w
                where w.version = 0
                group by w.user_id
            ) n
            where us.user_id = n.user_id
            returning us.user_id, us.conversations_revision - n.conversations as base
        )
        update conversations t
        set version = s.base + n.step
        from (
            select w.id, w.user_id, row_number() over (partition by w.user_id order by w.id) as step
            from written w
            where w.version = 0
        ) n
        join stamp s on s.user_id = n.user_id
        where t.id = n.id
    $sql$;
    return null;
end
""",
    ),
    "conversations_count": (
        "Counts conversations deleted, by the service too: no row is left to tell who did. None where the user goes too.",
        """
begin
    if not exists (select from gone g join users u on u.id = g.user_id) then
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
        update user_state us
        set conversations_revision = us.conversations_revision + n.conversations
        from (
            select g.user_id, count(*) as conversations
            from gone g
            join users u on u.id = g.user_id
            group by g.user_id
        ) n
        where us.user_id = n.user_id
    $sql$;
    return null;
end
""",
    ),
    "messages_move": (
        "Moves the conversations whose messages a statement wrote, changed or deleted, once in a transaction.",
        # xmin is the transaction that wrote the row. What this one wrote before, as the service does, nobody has seen.
        """
declare
    touched bigint[];
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
        join users u on u.id = t.user_id
        where t.id = any(touched) and t.xmin <> pg_current_xact_id()::xid);
    if cardinality(touched) = 0 then
        return null;
    end if;
    perform us.user_id
    from user_state us
    where us.user_id in (select t.user_id from conversations t where t.id = any(touched))
    order by us.user_id
    for no key update of us;
    update conversations t
    set version = 0, updated_at = greatest(statement_timestamp(), t.updated_at)
    where t.id = any(touched);
    return null;
end
""",
    ),
}

CHANGED = "(old.title, old.updated_at) is distinct from (new.title, new.updated_at)"

# Name: table, event, how, function
TRIGGERS = {
    # At depth 0 somebody moves a row to another owner, whose numbers it does not fit; a cascade is deeper.
    **{
        f"{table}_{column}_fixed": (
            table,
            f"before update of {column}",
            f"for each row when (old.{column} <> new.{column} and pg_trigger_depth() = 0)",
            f"refuse_change('{column}')",
        )
        for table, column in (
            ("conversations", "user_id"),
            ("messages", "user_id"),
            ("messages", "conversation_id"),
        )
    },
    "conversations_updated_at_kept": (
        "conversations",
        "before update",
        "for each row when (old.updated_at = new.updated_at and old.title is distinct from new.title)",
        "keep_updated_at()",
    ),
    # updated_at too is what clients see, and where a conversation stands in its list.
    "conversations_version_cleared": (
        "conversations",
        "before update",
        f"for each row when (old.version = new.version and {CHANGED})",
        "conversations_clear_version()",
    ),
    "conversations_insert_stamped": (
        "conversations",
        "after insert",
        "referencing new table as written for each statement",
        "conversations_stamp()",
    ),
    "conversations_update_stamped": (
        "conversations",
        "after update",
        "referencing new table as written for each statement",
        "conversations_stamp()",
    ),
    "conversations_delete_counted": (
        "conversations",
        "after delete",
        "referencing old table as gone for each statement",
        "conversations_count()",
    ),
    "messages_insert_moved": (
        "messages",
        "after insert",
        "referencing new table as written for each statement",
        "messages_move()",
    ),
    "messages_update_moved": (
        "messages",
        "after update",
        "referencing new table as written old table as replaced for each statement",
        "messages_move()",
    ),
    "messages_delete_moved": (
        "messages",
        "after delete",
        "referencing old table as written for each statement",
        "messages_move()",
    ),
}

# What was written while there were no triggers and versions began at 1: hardly a row, since no route wrote any.
REPAIR = """
update conversations t
set version = 0
from user_state us
where us.user_id = t.user_id and t.version > us.conversations_revision"""


def upgrade() -> None:
    op.execute("alter table conversations alter column version set default 0")
    _comment("conversations.version", VERSION)
    _comment("user_state.conversations_revision", REVISION)
    for name, (comment, body) in FUNCTIONS.items():
        op.execute(
            f"create or replace function {name}() returns trigger\nlanguage plpgsql\n"
            f"set search_path = public, pg_temp\nas $body${body}$body$"
        )
        op.execute(f"comment on function {name}() is '{_quoted(comment)}'")
    for name, (table, event, how, what) in TRIGGERS.items():
        op.execute(f"create or replace trigger {name} {event} on {table} {how} execute function {what}")
    op.execute(REPAIR.strip())


def downgrade() -> None:
    for name, (table, *_) in TRIGGERS.items():
        op.execute(f"drop trigger {name} on {table}")
    for name in FUNCTIONS:
        op.execute(f"drop function {name}()")
    _comment("user_state.conversations_revision", "The same count for conversations and their messages")
    _comment("conversations.version", "Grows with every change; the ETag")
    op.execute("alter table conversations alter column version set default 1")


def _comment(column: str, text: str) -> None:
    op.execute(f"comment on column {column} is '{_quoted(text)}'")


def _quoted(text: str) -> str:
    return text.replace("'", "''")
