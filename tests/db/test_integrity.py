"""The rules of the schema, for whoever writes SQL by hand: what refuses it, or what is true afterwards.

What stamps tasks and keeps their times is in test_triggers.py, what that takes for many rows in test_bulk.py.
"""

import sys
import uuid
from typing import Any

import asyncpg
import pytest

from db import catalogue
from db.models.base import SPACE
from tests.db.hands import FILL, OWNING, add, connected, contents, revision, revisions, someone

MESSAGE = "insert into messages (conversation_id, user_id, role, content) values ({talk}, '{user}',"
KEY = "insert into idempotency_keys (user_id, route, key, fingerprint, status) values ('{user}', '/', "
SESSION = "insert into sessions (id, user_id, refresh_hash, expires_at, user_agent) values (gen_random_uuid(), '{user}', '', now(), "
EMAILS = (
    "''", "'@'", "'a@'", "'@b'", "'a'", "'a@b@c'", "'a b@c'", "'a@b '", "e'a@b\\n'", "e'a@b\\u00a0c'",
)  # fmt: skip

# What refuses it (a constraint, a trigger or an SQLSTATE), and one SQL for each way to break it. {task}, {talk} and
# {message} are rows of {user}.
REFUSED = {
    # Lengths
    "22001": [
        "update users set email = repeat('a', 251) || '@x.de' where id = '{user}'",
        "update users set name = repeat('ä', 256) where id = '{user}'",
        "update tasks set title = repeat('ä', 501) where id = {task}",
        "update conversations set title = repeat('ä', 201) where id = {talk}",
    ],
    "tasks_title_length": [
        f"update tasks set title = {title} where id = {{task}}"
        for title in ("''", "'  '", "e' \\t\\n'", "e'\\u00a0\\u3000'")
    ],
    "tasks_description_length": ["update tasks set description = repeat('ä', 20001) where id = {task}"],
    "messages_content_length": [f"{MESSAGE} 'user', {content})" for content in ("''", "repeat('ä', 32001)")],
    "sessions_user_agent_length": [f"{SESSION} repeat('ä', 501))"],
    "idempotency_keys_key_length": [f"{KEY} {key}, '', 200)" for key in ("''", "repeat('k', 256)")],
    # Forms and enumerations
    "users_email_valid": [f"update users set email = {email} where id = '{{user}}'" for email in EMAILS],
    "tasks_status_valid": [
        f"update tasks set status = {status} where id = {{task}}" for status in ("'Pending'", "'done'", "''")
    ],
    "messages_role_valid": [f"{MESSAGE} {role}, 'x')" for role in ("'system'", "'User'", "''")],
    # Ranges
    "tasks_priority_range": [f"update tasks set priority = {n} where id = {{task}}" for n in (0, 6, -1)],
    "tasks_due_date_range": [
        f"update tasks set due_date = '{time}' where id = {{task}}"
        for time in ("infinity", "-infinity", "10000-01-01 00:00Z", "0001-12-31 23:59:59Z BC")
    ],
    "tasks_times_range": [
        "update tasks set deleted_at = 'infinity' where id = {task}",
        "update tasks set status = 'completed', completed_at = '-infinity' where id = {task}",
        "update tasks set updated_at = '10000-01-01 00:00Z' where id = {task}",
        "insert into tasks (user_id, title, created_at) values ('{user}', 'x', '0001-12-31 23:59:59Z BC')",
    ],
    "user_state_revision_range": [
        f"update user_state set {wrong} where user_id = '{{user}}'"
        for wrong in (
            "revision = -1", "revision = -1, purged_revision = -1", "purged_revision = -1", "purged_revision = revision + 1",
        )
    ],
    # Types
    "22P02": [
        "update tasks set priority = 'high' where id = {task}",
        "update users set is_active = 'maybe' where id = '{user}'",
        "update sessions set id = 'mine' where user_id = '{user}'",
    ],
    "22007": ["update tasks set due_date = 'soon' where id = {task}"],
    "22003": ["update tasks set priority = 40000 where id = {task}"],
    # What belongs together
    "tasks_completed_at_iff_completed": [
        "update tasks set status = 'completed' where id = {task}",
        "update tasks set completed_at = now() where id = {task}",
        "insert into tasks (user_id, title, status) values ('{user}', 'x', 'completed')",
        "insert into tasks (user_id, title, completed_at) values ('{user}', 'x', now())",
    ],
    # Uniqueness
    "users_email_key": [
        "insert into users (email) select upper(email) from users where id = '{user}'",
        "update users set email = (select email from users where id = '{user}') where id = '{other}'",
        "insert into users (email) values ('{user}@É'), ('{user}@é')",
    ],
    "tasks_user_id_import_key_key": [
        "insert into tasks (user_id, title, import_key) values ('{user}', 'x', 'k'), ('{user}', 'y', 'k')",
    ],
    # References
    "user_state_user_id_fkey": ["insert into user_state (user_id) values ('nobody')"],
    "sessions_user_id_fkey": [SESSION.replace("{user}", "nobody") + "null)"],
    "tasks_user_id_fkey": ["insert into tasks (user_id, title) values ('nobody', 'x')"],
    "tombstones_user_id_fkey": ["insert into tombstones (user_id, task_id, revision) values ('nobody', 1, 1)"],
    "conversations_user_id_fkey": ["insert into conversations (user_id) values ('nobody')"],
    "messages_user_id_fkey": [MESSAGE.replace("{user}", "nobody") + " 'user', 'x')"],
    "messages_conversation_id_fkey": [MESSAGE.replace("{talk}", "0") + " 'user', 'x')"],
    "idempotency_keys_user_id_fkey": [KEY.replace("{user}", "nobody") + "'k', '', 200)"],
    # What never changes
    "users_created_at_fixed": ["update users set created_at = now() where id = '{user}'"],
    "tasks_created_at_fixed": ["update tasks set created_at = now() where id = {task}"],
    "conversations_created_at_fixed": ["update conversations set created_at = now() where id = {talk}"],
    "messages_created_at_fixed": ["update messages set created_at = now() where id = {message}"],
    "tasks_id_fixed": ["update tasks set id = -id where id = {task}"],
    "tasks_user_id_fixed": ["update tasks set user_id = '{other}' where id = {task}"],
    "conversations_user_id_fixed": ["update conversations set user_id = '{other}' where id = {talk}"],
    "messages_user_id_fixed": ["update messages set user_id = '{other}' where id = {message}"],
    "messages_conversation_id_fixed": ["update messages set conversation_id = 0 where id = {message}"],
    "messages_user_id_owned": [MESSAGE.replace("{user}", "{other}") + " 'user', 'x')"],
    "user_state_kept": ["delete from user_state where user_id = '{user}'"],
    "user_state_is_active_fixed": ["update user_state set is_active = false where user_id = '{user}'"],
}  # fmt: skip

# Just inside.
ALLOWED = [
    "update users set email = 'A.b+c@d{user}' where id = '{user}'",
    "update users set email = repeat('a', 200) || '@' || repeat('ä', 54) where id = '{user}'",
    "update users set name = repeat('ä', 255), created_at = created_at where id = '{user}'",
    "update tasks set title = repeat('ä', 500), description = repeat('ä', 20000) where id = {task}",
    "update tasks set title = e'\\u200b', description = '' where id = {task}",
    "update tasks set due_date = '0001-01-01 00:00:00Z', priority = 1 where id = {task}",
    "update tasks set due_date = '9999-12-31 23:59:59.999999Z', priority = 5 where id = {task}",
    "update tasks set status = 'completed', completed_at = now() where id = {task}",
    "update tasks set status = 'in_progress', completed_at = null where id = {task}",
    "update tasks set id = id, user_id = user_id, created_at = created_at where id = {task}",
    "insert into tasks (user_id, title, import_key) values ('{user}', 'x', 'k'), ('{other}', 'x', 'k')",
    "insert into tasks (user_id, title, import_key) values ('{user}', 'x', null), ('{user}', 'x', null)",
    "update conversations set title = repeat('ä', 200), created_at = created_at where id = {talk}",
    f"{MESSAGE} 'user', repeat('ä', 32000))",
    f"{MESSAGE} 'assistant', ' ')",
    f"{SESSION} repeat('ä', 500))",
    f"{KEY} repeat('k', 255), '', 200)",
]

# By itself: a rule, what a hand does, and a question whose answer is then yes.
AFTERWARDS = {
    "a user has a state": (
        "insert into users (id, email, is_active) values ('{fresh}', '{fresh}@x', false)",
        (
            "select count(*) = 1 and not bool_or(is_active) from user_state where user_id = '{fresh}'"
            " and (revision, purged_revision, conversations_revision, tokens_valid_from) = (0, 0, 0, to_timestamp(0))"
        ),
    ),
    "a deactivation reaches the state": (
        "update users set is_active = false where id = '{user}'",
        "select not is_active from user_state where user_id = '{user}'",
    ),
    "so does one under a new id": (
        "update users set is_active = false, id = '{fresh}' where id = '{user}'",
        "select not is_active from user_state where user_id = '{fresh}'",
    ),
    "and an activation": (
        "update users set is_active = false where id = '{user}'; update users set is_active = true where id = '{user}'",
        "select is_active from user_state where user_id = '{user}'",
    ),
    "what was not said is filled in": (
        "insert into tasks (user_id, title) values ('{user}', 'plain')",
        (
            "select (status, priority, revision) = ('pending', 3, 2) and created_at = updated_at"
            " and num_nulls(description, due_date, completed_at, deleted_at, import_key) = 5"
            " from tasks where user_id = '{user}' and title = 'plain'"
        ),
    ),
    "a conversation takes its messages along": (
        "delete from conversations where id = {talk}",
        "select count(*) = 0 from messages where id = {message}",
    ),
    "and its new id reaches them": (
        "update conversations set id = -id where id = {talk}",
        "select conversation_id = -{talk} from messages where id = {message}",
    ),
    "a message moves its conversation": (
        MESSAGE + " 'user', 'again')",
        (
            "select (t.version, us.conversations_revision) = (2, 2) and t.updated_at > t.created_at"
            " from conversations t join user_state us using (user_id) where t.id = {talk}"
        ),
    ),
    "a sync is told of what was erased": (
        "delete from tasks where id = {task}",
        (
            "select b.revision = 2 and us.revision = 2 and us.purged_revision = 0"
            " from tombstones b join user_state us using (user_id) where b.task_id = {task}"
        ),
    ),
    "or begins again where it can no longer be": (
        (
            "delete from tasks where id = {task}; insert into tasks (user_id, title) values ('{user}', 'later');"
            "delete from tombstones where user_id = '{user}'"
        ),
        "select (revision, purged_revision) = (3, 2) from user_state where user_id = '{user}'",
    ),
    "but not for a task that is there again": (
        (
            "delete from tasks where id = {task}; insert into tasks (id, user_id, title) values ({task}, '{user}', 'back');"
            "delete from tombstones where user_id = '{user}'"
        ),
        "select (revision, purged_revision) = (3, 0) from user_state where user_id = '{user}'",
    ),
    "nor twice": (
        (
            "delete from tasks where id = {task}; update user_state set revision = 9, purged_revision = 9 where user_id = '{user}';"
            "delete from tombstones where user_id = '{user}'"
        ),
        "select (revision, purged_revision) = (9, 9) from user_state where user_id = '{user}'",
    ),
}


def refuser(error: asyncpg.PostgresError) -> str:
    """The name of what refused, the SQLSTATE where it has none."""
    return getattr(error, "constraint_name", None) or str(error.sqlstate)


@pytest.mark.parametrize(("by", "sql"), [(by, sql) for by, sqls in REFUSED.items() for sql in sqls])
async def test_is_refused(by: str, sql: str, connection: asyncpg.Connection, rows: dict[str, Any]) -> None:
    before = await contents(connection, rows["user"])
    with pytest.raises(asyncpg.PostgresError) as refused:
        await connection.execute(sql.format(**rows))
    assert refuser(refused.value) == by
    assert await contents(connection, rows["user"]) == before


@pytest.mark.parametrize("sql", ALLOWED)
async def test_what_is_just_inside_is_allowed(
    sql: str, connection: asyncpg.Connection, rows: dict[str, Any]
) -> None:
    await connection.execute(sql.format(**rows))


@pytest.mark.parametrize(("sql", "question"), AFTERWARDS.values(), ids=AFTERWARDS.keys())
async def test_is_true_afterwards(
    sql: str, question: str, connection: asyncpg.Connection, rows: dict[str, Any]
) -> None:
    names = rows | {"fresh": uuid.uuid4().hex}
    await connection.execute(sql.format(**names))
    assert await connection.fetchval(question.format(**names)) is True


async def test_no_rule_is_left_out(database_url: str) -> None:
    schema = await catalogue.read(database_url)
    rules = {key.name for key in schema.constraints if key.kind in ("check", "foreign key")}
    rules |= {index.name for index in schema.indexes if index.is_unique and not index.behind}
    rules |= {trigger.name for trigger in schema.triggers if trigger.function.startswith("refuse_")}
    assert rules == {by for by in REFUSED if len(by) > 5}


async def test_what_must_be_there_cannot_be_null(
    database_url: str, connection: asyncpg.Connection, user: str
) -> None:
    await connection.execute(FILL.format(user=user))
    required = [column for column in (await catalogue.read(database_url)).columns if not column.nullable]
    assert len(required) > 40
    for column in required:
        whose = "id" if column.table_name == "users" else "user_id"
        with pytest.raises(asyncpg.NotNullViolationError) as refused:
            await connection.execute(
                f"update {column.table_name} set {column.name} = null where {whose} = $1", user
            )
        named = refused.value.as_dict()
        assert (named["table_name"], named["column_name"]) == (column.table_name, column.name)


async def test_every_primary_key_is_unique(
    database_url: str, connection: asyncpg.Connection, user: str
) -> None:
    await connection.execute(FILL.format(user=user))
    keys = [key for key in (await catalogue.read(database_url)).constraints if key.kind == "primary key"]
    assert {key.table_name for key in keys} == {"users", *OWNING}
    for key in keys:
        table, whose = key.table_name, "id" if key.table_name == "users" else "user_id"
        with pytest.raises(asyncpg.UniqueViolationError) as refused:
            await connection.execute(
                f"insert into {table} select t.* from {table} t where t.{whose} = $1", user
            )
        assert refuser(refused.value) == key.name


async def test_white_space_is_what_python_strips(connection: asyncpg.Connection) -> None:
    space = [chr(n) for n in range(1, sys.maxunicode + 1) if chr(n).isspace()]
    words = [chr(n) for n in range(1, 0x3100) if not chr(n).isspace()]
    pattern = f"[^{SPACE}]"
    blank = 'select c from unnest($1::text[]) c where not (c collate "C" ~ $2)'
    assert [row[0] for row in await connection.fetch(blank, space + words, pattern)] == space


# A new id, and the end


async def test_every_table_with_a_user_is_looked_at(connection: asyncpg.Connection) -> None:
    tables = await connection.fetch(
        "select table_name from information_schema.columns where table_schema = 'public' and column_name = 'user_id'"
    )
    assert {row["table_name"] for row in tables} == set(OWNING)


async def test_a_new_id_takes_everything_along_unchanged(connection: asyncpg.Connection, user: str) -> None:
    await connection.execute(FILL.format(user=user))
    before, new = await contents(connection, user), uuid.uuid4().hex
    assert all(before.values())
    await connection.execute("update users set id = $2 where id = $1", user, new)
    assert await contents(connection, new) == before
    assert not any((await contents(connection, user)).values())
    await add(connection, new, "and on")
    assert await revision(connection, new) == 12


async def test_a_deleted_user_leaves_nothing(connection: asyncpg.Connection, user: str) -> None:
    other = await someone(connection)
    for somebody in (user, other):
        await connection.execute(FILL.format(user=somebody))
    before = await contents(connection, other)
    await connection.execute("delete from users where id = $1", user)
    assert not any((await contents(connection, user)).values())
    assert await contents(connection, other) == before


async def test_a_user_goes_and_changes_in_whatever_order_the_keys_are_followed(
    migrated_database: str,
) -> None:
    """A restore makes foreign keys anew, by table name, and PostgreSQL follows them in the order they were made."""
    async with connected(migrated_database) as connection:
        await connection.execute(
            """
            alter table user_state drop constraint user_state_user_id_fkey;
            alter table user_state add constraint user_state_user_id_fkey
                foreign key (user_id) references users (id) on update cascade on delete cascade;
            """
        )
        user, new = await someone(connection), uuid.uuid4().hex
        await connection.execute(FILL.format(user=user))
        before = await contents(connection, user)
        await connection.execute("update users set id = $2 where id = $1", user, new)
        assert await contents(connection, new) == before
        await connection.execute("update users set id = $2, is_active = false where id = $1", new, user)
        assert '"is_active": false' in (await contents(connection, user))["user_state"]
        await connection.execute("delete from users where id = $1", user)
        assert not any((await contents(connection, user)).values())


async def test_a_user_goes_together_with_tasks_of_another(connection: asyncpg.Connection, user: str) -> None:
    other = await someone(connection)
    await add(connection, user, "one")
    await add(connection, other, "two")
    await connection.execute(
        "with gone as (delete from tasks where user_id = any($1)) delete from users where id = $2",
        [user, other],
        user,
    )
    assert await revisions(connection, user) == []
    assert await revisions(connection, other) == [2]


# Past the triggers


@pytest.mark.parametrize("table", ["tasks", "tombstones"])
async def test_truncate_sends_every_sync_back_to_its_start(migrated_database: str, table: str) -> None:
    async with connected(migrated_database) as connection:
        users = [await someone(connection) for _ in range(3)]
        for user in users:
            await connection.execute(FILL.format(user=user))
        await connection.execute(f"truncate {table}")
        states = await connection.fetch("select revision, purged_revision from user_state")
        assert [tuple(state) for state in states] == [(12, 12)] * 3
        assert await add(connection, users[0], "and on")
        assert await revision(connection, users[0]) == 13


@pytest.mark.parametrize("tables", ["users cascade", "tasks, task_texts, users cascade"])
async def test_truncate_of_all_users_leaves_nothing(migrated_database: str, tables: str) -> None:
    async with connected(migrated_database) as connection:
        await connection.execute(FILL.format(user=await someone(connection)))
        await connection.execute(f"truncate {tables}")
        left = [await connection.fetchval(f"select count(*) from {table}") for table in OWNING]
        assert left == [0] * len(OWNING)


async def test_a_replica_is_believed_blindly(migrated_database: str) -> None:
    """As SCHEMA.md warns: no trigger and no foreign key speaks up."""
    async with connected(migrated_database) as connection:
        await connection.execute("set session_replication_role = replica")
        await connection.execute("insert into tasks (user_id, title) values ('nobody', 'x')")
        assert await connection.fetchval("select array_agg(revision) from tasks") == [0]
        with pytest.raises(asyncpg.CheckViolationError):
            await connection.execute("update tasks set priority = 9")


async def test_no_trigger_locks_a_state_before_its_update(database_url: str) -> None:
    """PostgreSQL would lock the row of every write a second time, whatever columns the trigger names."""
    triggers = (await catalogue.read(database_url)).triggers
    states = [trigger.definition for trigger in triggers if trigger.table_name == "user_state"]
    assert states
    assert not [definition for definition in states if "BEFORE UPDATE" in definition]
