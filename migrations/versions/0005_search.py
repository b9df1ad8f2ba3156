"""Search.

The words of each task, derived from its title and description, beside the tasks and kept by triggers. First what keeps
them, then those of the tasks that are there, in batches while the service goes on: whichever of a batch and a writer comes
second leaves the writer's words. The way back loses nothing, since the tasks hold what the words are derived from.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TABLE = """
create table if not exists task_words (
    user_id text collate "C" not null,
    task_id bigint not null,
    words text not null,
    constraint task_words_pkey primary key (user_id, task_id) include (words)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.02)"""

COMMENTS = (
    "comment on table task_words is 'What search looks through: the words of each task''s title and description.'",
    "comment on column task_words.words is 'In lower case, a space before each; the first 300 characters'",
    "comment on function tasks_words() is 'Keeps task_words: what search looks through is what the task says.'",
)


def _words(row: str) -> str:
    text = f"lower(' ' || {row}.title || ' ' || coalesce({row}.description, ''))"
    return f"left(regexp_replace({text}, '[^[:alnum:]]+', ' ', 'g'), 300)"


FUNCTION = f"""
create or replace function tasks_words() returns trigger
language plpgsql
set search_path = public, pg_temp
as $body$
begin
    if tg_op = 'DELETE' or (old.user_id, old.id) <> (new.user_id, new.id) then
        delete from task_words where user_id = old.user_id and task_id = old.id;
    end if;
    if tg_op <> 'DELETE' then
        insert into task_words (user_id, task_id, words)
        values (new.user_id, new.id, {_words("new")})
        on conflict (user_id, task_id) do update
        set words = excluded.words;
    end if;
    return null;
end
$body$"""

_KEPT = "({0}.user_id, {0}.id, {0}.title, {0}.description)"
# Name: event, when
TRIGGERS = {
    "tasks_words_insert": ("after insert", ""),
    "tasks_words_update": (
        "after update",
        f"when ({_KEPT.format('old')} is distinct from {_KEPT.format('new')})",
    ),
    "tasks_words_delete": ("after delete", ""),
}

BACKFILL = f"""
do $$
declare
    done bigint := -9223372036854775808;
    upto bigint;
begin
    loop
        select max(n.id) into upto
        from (select t.id from tasks t where t.id > done order by t.id limit 2000) n;
        exit when upto is null;
        insert into task_words (user_id, task_id, words)
        select t.user_id, t.id, {_words("t")}
        from tasks t
        where t.id > done and t.id <= upto
        on conflict (user_id, task_id) do nothing;
        commit;
        done := upto;
    end loop;
    delete from task_words w
    where not exists (select from tasks t where t.id = w.task_id and t.user_id = w.user_id);
end $$"""


def upgrade() -> None:
    op.execute(TABLE.strip())
    op.execute(FUNCTION.strip())
    for comment in COMMENTS:
        op.execute(comment)
    for name, (event, when) in TRIGGERS.items():
        op.execute(
            f"create or replace trigger {name} {event} on tasks for each row {when} execute function tasks_words()"
        )
    with op.get_context().autocommit_block():
        op.execute("set statement_timeout = 0")
        op.execute(BACKFILL.strip())
        op.execute("set statement_timeout = '60s'")


def downgrade() -> None:
    for name in TRIGGERS:
        op.execute(f"drop trigger {name} on tasks")
    op.execute("drop function tasks_words()")
    op.execute("drop table task_words")
