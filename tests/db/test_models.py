"""The models against the migrated database, and every constraint against values that break it."""

import sys
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from msgspec import structs
from sqlalchemy import DateTime, NullPool
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import configure_mappers, selectinload
from sqlmodel import SQLModel, select

from db import catalogue
from db.models import (
    Conversation,
    IdempotencyKey,
    Message,
    Session,
    Task,
    TaskTexts,
    Tombstone,
    User,
    UserState,
    metadata,
)
from db.models.base import SPACE
from db.url import parse

MODELS: list[type[SQLModel]] = [
    User, UserState, Session, Task, TaskTexts, Tombstone, Conversation, Message, IdempotencyKey,
]  # fmt: skip
OWNED = {"tasks", "tombstones", "conversations", "messages", "sessions", "idempotency_keys"}


def engine_of(url: str) -> AsyncEngine:
    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(**parse(url).kwargs())

    return create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)


@pytest.fixture
async def orm(database_url: str) -> AsyncIterator[AsyncSession]:
    """A session of the ORM, in a transaction that is undone."""
    async with AsyncSession(engine_of(database_url)) as session:
        yield session


async def test_the_models_make_the_migrated_schema(empty_database: str, database_url: str) -> None:
    """What Alembic's comparison does not see: the text of checks and predicates, the order of columns, storage."""
    async with engine_of(empty_database).begin() as connection:
        await connection.run_sync(metadata.create_all)
    made, migrated = await catalogue.read(empty_database), await catalogue.read(database_url)
    # A model cannot comment on these.
    migrated.constraints = [structs.replace(item, comment=None) for item in migrated.constraints]
    migrated.indexes = [structs.replace(item, comment=None) for item in migrated.indexes]
    assert made.tables == migrated.tables
    assert made.columns == migrated.columns
    assert made.constraints == migrated.constraints
    assert made.indexes == migrated.indexes


def test_every_table_has_a_model() -> None:
    configure_mappers()
    assert {model.__tablename__ for model in MODELS} == set(metadata.tables)


@pytest.mark.parametrize("model", MODELS)
def test_fields_agree_with_columns(model: type[SQLModel]) -> None:
    table = metadata.tables[str(model.__tablename__)]
    assert list(model.model_fields) == [column.name for column in table.columns]
    for name, field in model.model_fields.items():
        column = table.columns[name]
        filled_by_database = column.server_default is not None or column.identity is not None
        may_be_none = type(None) in getattr(field.annotation, "__args__", ())
        assert field.is_required() == (not column.nullable and not filled_by_database), name
        assert may_be_none == (column.nullable or (filled_by_database and field.default is None)), name
        if field.annotation in (datetime, datetime | None):
            assert isinstance(column.type, DateTime), name
            assert column.type.timezone, name


def test_relationships_lead_both_ways() -> None:
    configure_mappers()
    ways = {
        (model.__name__, way.key): (way.mapper.class_.__name__, way.back_populates)
        for model in MODELS
        for way in model.__mapper__.relationships  # type: ignore[attr-defined]
    }
    assert {key for model, key in ways if model == "User"} == {"state", *OWNED}
    assert all(("user" in vars(model)) == (model not in (User, TaskTexts)) for model in MODELS)
    for (model, key), (target, back) in ways.items():
        assert ways[target, str(back)] == (model, key)


async def test_the_database_fills_in_what_was_not_said(orm: AsyncSession) -> None:
    user = User(email=f"{uuid.uuid4()}@example.com")
    orm.add(user)
    await orm.flush()
    await orm.refresh(user)
    assert user.id
    assert uuid.UUID(user.id)
    task = Task(user_id=user.id, title="Buy milk")
    orm.add(task)
    await orm.flush()
    await orm.refresh(task)
    assert (user.is_active, user.is_admin, user.email_verified) == (True, False, False)
    assert (task.status, task.priority, task.completed_at, task.deleted_at) == ("pending", 3, None, None)
    assert task.revision == 1
    assert task.created_at is not None
    assert task.created_at == task.updated_at == user.created_at
    assert task.created_at.tzinfo is not None
    assert abs(datetime.now(UTC) - task.created_at).days == 0


async def test_relationships_are_read(orm: AsyncSession) -> None:
    who = uuid.uuid4().hex
    orm.add(User(id=who, email=f"{who}@example.com"))
    await orm.flush()
    one, two = Task(user_id=who, title="one"), Task(user_id=who, title="two")
    talk = Conversation(user_id=who, title="A talk")
    session = Session(id=uuid.uuid4(), user_id=who, refresh_hash=b"hash", expires_at=datetime.now(UTC))
    key = IdempotencyKey(user_id=who, route="/tasks", key="k", fingerprint=b"f", status=201)
    orm.add_all([one, two, talk, session, key])
    await orm.flush()
    assert talk.id
    for word in ("hello", "again"):
        orm.add(Message(conversation_id=talk.id, user_id=who, role="user", content=word))
        await orm.flush()
    await orm.delete(two)
    await orm.flush()
    orm.expire_all()
    everything = [selectinload(getattr(User, key)) for key in ("state", *sorted(OWNED - {"conversations"}))]
    talks = selectinload(User.conversations).selectinload(Conversation.messages)  # type: ignore[arg-type]
    user = (await orm.scalars(select(User).where(User.id == who).options(*everything, talks))).one()
    assert user.state is not None
    assert (user.state.revision, user.state.is_active) == (3, True)
    assert [task.title for task in user.tasks] == ["one"]
    assert [stone.revision for stone in user.tombstones] == [3]
    assert [session.refresh_hash for session in user.sessions] == [b"hash"]
    assert [key.route for key in user.idempotency_keys] == ["/tasks"]
    assert [message.content for message in user.conversations[0].messages] == ["hello", "again"]
    assert user.conversations[0].messages[0].user is user


async def test_the_orm_leaves_a_deleted_users_rows_to_the_database(orm: AsyncSession) -> None:
    who = uuid.uuid4().hex
    user = User(id=who, email=f"{who}@example.com")
    orm.add(user)
    await orm.flush()
    orm.add(Task(user_id=who, title="one"))
    await orm.flush()
    orm.expire_all()
    await orm.delete(await orm.get_one(User, who))
    await orm.flush()
    orm.expunge_all()
    assert (await orm.scalars(select(Task).where(Task.user_id == who))).all() == []
    assert (await orm.scalars(select(UserState).where(UserState.user_id == who))).all() == []


async def test_a_state_is_never_made_by_hand(orm: AsyncSession) -> None:
    who = uuid.uuid4().hex
    orm.add(User(id=who, email=f"{who}@example.com"))
    await orm.flush()
    orm.add(UserState(user_id=who))
    with pytest.raises(IntegrityError, match="user_state_pkey"):
        await orm.flush()


# Every CHECK, and what it refuses. {task} and {talk} are rows of {user}.
REFUSED = {
    "users_email_valid": [
        f"update users set email = {email} where id = '{{user}}'"
        for email in (
            "''", "'@'", "'a@'", "'@b'", "'a'", "'a@b@c'", "'a b@c'", "'a@b '", "e'a@b\\n'", "e'a@b\\u00a0c'",
        )
    ],
    "user_state_revision_range": [
        f"update user_state set {wrong} where user_id = '{{user}}'"
        for wrong in (
            "revision = -1", "revision = -1, purged_revision = -1", "purged_revision = -1", "purged_revision = revision + 1",
        )
    ],
    "sessions_user_agent_length": [
        "insert into sessions (id, user_id, refresh_hash, expires_at, user_agent) values (gen_random_uuid(), '{user}', '', now(), repeat('ä', 501))"
    ],
    "tasks_title_length": [
        f"update tasks set title = {title} where id = {{task}}" for title in ("''", "'  '", "e' \\t\\n'", "e'\\u00a0\\u3000'")
    ],
    "tasks_description_length": ["update tasks set description = repeat('ä', 20001) where id = {task}"],
    "tasks_status_valid": [
        "update tasks set status = 'Pending' where id = {task}",
        "update tasks set status = '' where id = {task}",
    ],
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
    "tasks_completed_at_iff_completed": [
        "update tasks set status = 'completed' where id = {task}",
        "update tasks set completed_at = now() where id = {task}",
    ],
    "messages_role_valid": [
        "insert into messages (conversation_id, user_id, role, content) values ({talk}, '{user}', 'system', 'x')"
    ],
    "messages_content_length": [
        f"insert into messages (conversation_id, user_id, role, content) values ({{talk}}, '{{user}}', 'user', {content})"
        for content in ("''", "repeat('ä', 32001)")
    ],
    "idempotency_keys_key_length": [
        "insert into idempotency_keys (user_id, route, key, fingerprint, status)"
        f" values ('{{user}}', '/', {key}, 'print', 200)"
        for key in ("''", "repeat('k', 256)")
    ],
}  # fmt: skip
ALLOWED = [
    "update users set email = 'A.b+c@d' where id = '{user}'",
    "update users set email = repeat('a', 200) || '@' || repeat('ä', 54) where id = '{user}'",
    "update tasks set title = repeat('ä', 500), description = repeat('ä', 20000) where id = {task}",
    "update tasks set title = e'\\u200b', description = '' where id = {task}",
    "update tasks set due_date = '0001-01-01 00:00:00Z', priority = 1 where id = {task}",
    "update tasks set due_date = '9999-12-31 23:59:59.999999Z', priority = 5 where id = {task}",
    "update tasks set status = 'completed', completed_at = now() where id = {task}",
    "update tasks set status = 'in_progress', completed_at = null where id = {task}",
    "insert into messages (conversation_id, user_id, role, content) values ({talk}, '{user}', 'user', repeat('ä', 32000))",
    "insert into messages (conversation_id, user_id, role, content) values ({talk}, '{user}', 'assistant', ' ')",
    "insert into idempotency_keys (user_id, route, key, fingerprint, status) values ('{user}', '/', repeat('k', 255), '', 200)",
]


@pytest.fixture
async def rows(connection: asyncpg.Connection) -> dict[str, Any]:
    """A fresh user with a task and a conversation."""
    user = await connection.fetchval(
        "insert into users (email) values ($1) returning id", f"{uuid.uuid4()}@x"
    )
    return {
        "user": user,
        "task": await connection.fetchval(
            "insert into tasks (user_id, title) values ($1, 'x') returning id", user
        ),
        "talk": await connection.fetchval(
            "insert into conversations (user_id) values ($1) returning id", user
        ),
    }


@pytest.mark.parametrize(
    ("constraint", "sql"), [(constraint, sql) for constraint, sqls in REFUSED.items() for sql in sqls]
)
async def test_a_check_refuses_by_its_name(
    constraint: str, sql: str, connection: asyncpg.Connection, rows: dict[str, Any]
) -> None:
    with pytest.raises(asyncpg.CheckViolationError) as refused:
        await connection.execute(sql.format(**rows))
    assert getattr(refused.value, "constraint_name", None) == constraint


async def test_no_check_is_left_out(database_url: str) -> None:
    constraints = (await catalogue.read(database_url)).constraints
    assert {k.name for k in constraints if k.kind == "check"} == set(REFUSED)


@pytest.mark.parametrize("sql", ALLOWED)
async def test_what_is_just_inside_is_allowed(
    sql: str, connection: asyncpg.Connection, rows: dict[str, Any]
) -> None:
    await connection.execute(sql.format(**rows))


async def test_white_space_is_what_python_strips(connection: asyncpg.Connection) -> None:
    space = [chr(n) for n in range(1, sys.maxunicode + 1) if chr(n).isspace()]
    words = [chr(n) for n in range(1, 0x3100) if not chr(n).isspace()]
    pattern = f"[^{SPACE}]"
    blank = 'select c from unnest($1::text[]) c where not (c collate "C" ~ $2)'
    assert [row[0] for row in await connection.fetch(blank, space + words, pattern)] == space


async def test_an_email_is_unique_in_any_case(connection: asyncpg.Connection) -> None:
    email = f"{uuid.uuid4()}@example.com"
    await connection.execute("insert into users (email) values ($1)", email)
    with pytest.raises(asyncpg.UniqueViolationError) as refused:
        await connection.execute("insert into users (email) values ($1)", email.upper())
    assert getattr(refused.value, "constraint_name", None) == "users_email_key"


async def test_an_import_key_is_unique_for_a_user(
    connection: asyncpg.Connection, rows: dict[str, Any]
) -> None:
    insert = "insert into tasks (user_id, title, import_key) values ($1, 'x', $2)"
    other = await connection.fetchval(
        "insert into users (email) values ($1) returning id", f"{uuid.uuid4()}@x"
    )
    for user, key in ((rows["user"], "k"), (other, "k"), (other, None), (other, None)):
        await connection.execute(insert, user, key)
    with pytest.raises(asyncpg.UniqueViolationError) as refused:
        await connection.execute(insert, rows["user"], "k")
    assert getattr(refused.value, "constraint_name", None) == "tasks_user_id_import_key_key"
