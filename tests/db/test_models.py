"""The models against the migrated database: the same schema, fields, defaults and relationships."""

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from msgspec import structs
from pydantic import ValidationError
from sqlalchemy import CheckConstraint, DateTime, NullPool
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


@pytest.mark.parametrize("model", MODELS)
def test_validation_asks_for_what_must_be_said(model: type[SQLModel]) -> None:
    required = {name for name, field in model.model_fields.items() if field.is_required()}
    with pytest.raises(ValidationError) as refused:
        model.model_validate({})
    assert {error["loc"] for error in refused.value.errors()} == {(name,) for name in required}


@pytest.mark.parametrize("model", MODELS)
def test_validation_refuses_what_has_another_type(model: type[SQLModel]) -> None:
    with pytest.raises(ValidationError) as refused:
        model.model_validate(dict.fromkeys(model.model_fields, object()))
    assert {error["loc"] for error in refused.value.errors()} == {(name,) for name in model.model_fields}


@pytest.mark.parametrize(
    ("model", "field", "inside", "beyond"),
    [
        (User, "email", ["x" * 255], ["x" * 256]),
        (User, "name", ["", None, "x" * 255], ["x" * 256]),
        (Task, "title", ["x", "x" * 500], ["x" * 501]),
        (Task, "description", ["", None, "x" * 20_000], ["x" * 20_001]),
        (Task, "priority", [1, 5], [0, 6]),
        (Conversation, "title", [None, "x" * 200], ["x" * 201]),
        (Message, "content", ["x", "x" * 32_000], ["", "x" * 32_001]),
        (Session, "user_agent", [None, "x" * 500], ["x" * 501]),
        (IdempotencyKey, "key", ["x", "x" * 255], ["", "x" * 256]),
    ],
)
def test_validation_has_the_bounds_of_the_schema(
    model: type[SQLModel], field: str, inside: list[Any], beyond: list[Any]
) -> None:
    def faults(value: Any) -> list[tuple[int | str, ...]]:
        try:
            model.model_validate({field: value})
        except ValidationError as error:
            return [fault["loc"] for fault in error.errors() if fault["type"] != "missing"]
        return []

    assert [faults(value) for value in inside] == [[]] * len(inside)
    assert [faults(value) for value in beyond] == [[(field,)]] * len(beyond)
    table = metadata.tables[str(model.__tablename__)]
    told = [str(check.sqltext) for check in table.constraints if isinstance(check, CheckConstraint)]
    length = getattr(table.columns[field].type, "length", None)
    highest = max(len(value) if isinstance(value, str) else value for value in inside if value is not None)
    assert length == highest or any(field in check and f"{highest}" in check for check in told)


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
