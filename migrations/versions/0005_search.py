"""Search.

The text of each task in lower case, derived from title and description, beside the tasks and kept by triggers. First what
keeps it, then that of the tasks that are there, in batches while the service goes on: whichever of a batch and a writer
comes second leaves the writer's text. What was erased beside a batch goes at last, when every transaction that may have
erased without seeing the batch's row is over; none is held up for it. The way back loses nothing, since the tasks hold what the text is derived from.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TABLE = """
create table if not exists task_texts (
    user_id text collate "C" not null,
    task_id bigint not null,
    text text not null,
    constraint task_texts_pkey primary key (user_id, task_id) include (text)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.02)"""

COMMENTS = (
    "comment on table task_texts is 'What search looks through: the title and description of each task.'",
    "comment on column task_texts.text is 'In lower case; the first 300 characters'",
    "comment on function tasks_texts_made() is 'Gives new tasks their row in task_texts.'",
    "comment on function tasks_texts_kept() is 'Keeps task_texts: what search looks through is what the task says.'",
)


def _text(row: str) -> str:
    return f"left(lower({row}.title || ' ' || coalesce({row}.description, '')), 300)"


_PUT = """insert into task_texts (user_id, task_id, text)
    {}"""
_OVER = """
    on conflict (user_id, task_id) do update
    set text = excluded.text"""
_MADE = _PUT.format(f"select w.user_id, w.id, {_text('w')} from written w")

# To look for a text that may be there already costs bulk inserts a tenth. There is one only where a task went past the triggers.
FUNCTIONS = {
    "tasks_texts_made": f"""
begin
    {_MADE};
    return null;
exception when unique_violation then
    {_MADE}{_OVER};
    return null;
end
""",
    "tasks_texts_kept": f"""
begin
    if tg_op = 'DELETE' or (old.user_id, old.id) <> (new.user_id, new.id) then
        delete from task_texts where user_id = old.user_id and task_id = old.id;
    end if;
    if tg_op = 'UPDATE' then
        {_PUT.format(f"values (new.user_id, new.id, {_text('new')})")}{_OVER};
    end if;
    return null;
end
""",
}

_KEPT = "({0}.user_id, {0}.id, {0}.title, {0}.description)"
# Name: event, how, function. Of inserts each statement, for rows come by the thousand.
TRIGGERS = {
    "tasks_texts_insert": (
        "after insert",
        "referencing new table as written for each statement",
        "tasks_texts_made()",
    ),
    "tasks_texts_update": (
        "after update",
        f"for each row when ({_KEPT.format('old')} is distinct from {_KEPT.format('new')})",
        "tasks_texts_kept()",
    ),
    "tasks_texts_delete": ("after delete", "for each row", "tasks_texts_kept()"),
}

BACKFILL = f"""
do $$
declare
    done bigint := -9223372036854775808;
    upto bigint;
    mark xid8;
begin
    loop
        select max(n.id) into upto
        from (select t.id from tasks t where t.id > done order by t.id limit 2000) n;
        exit when upto is null;
        insert into task_texts (user_id, task_id, text)
        select t.user_id, t.id, {_text("t")}
        from tasks t
        where t.id > done and t.id <= upto
        on conflict (user_id, task_id) do nothing;
        commit;
        done := upto;
    end loop;
    mark := pg_current_xact_id();
    commit;
    while pg_snapshot_xmin(pg_current_snapshot()) <= mark loop
        perform pg_sleep(0.02);
        commit;
    end loop;
    delete from task_texts w
    where not exists (select from tasks t where t.id = w.task_id and t.user_id = w.user_id);
end $$"""


def upgrade() -> None:
    op.execute(TABLE.strip())
    for name, body in FUNCTIONS.items():
        op.execute(
            f"create or replace function {name}() returns trigger\nlanguage plpgsql\n"
            f"set search_path = public, pg_temp\nas $body${body}$body$"
        )
    for comment in COMMENTS:
        op.execute(comment)
    for name, (event, how, what) in TRIGGERS.items():
        op.execute(f"create or replace trigger {name} {event} on tasks {how} execute function {what}")
    with op.get_context().autocommit_block():
        op.execute("set statement_timeout = 0")
        op.execute(BACKFILL.strip())
        op.execute("set statement_timeout = '60s'")


def downgrade() -> None:
    for name in TRIGGERS:
        op.execute(f"drop trigger {name} on tasks")
    for name in FUNCTIONS:
        op.execute(f"drop function {name}()")
    op.execute("drop table task_texts")
