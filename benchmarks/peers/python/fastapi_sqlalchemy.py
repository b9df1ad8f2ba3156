"""FastAPI with SQLAlchemy's asynchronous sessions on asyncpg."""

import json
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import jwt
from fastapi import Depends, FastAPI, HTTPException, Query
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy import BigInteger, DateTime, ForeignKey, SmallInteger, Text, func, select, tuple_
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

KEY = bytes.fromhex(os.environ["TOKEN_KEY"])
LABELS = ("lowest", "low", "medium", "high", "highest")

url = make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+asyncpg", query={})
engine = create_async_engine(url, pool_size=20, max_overflow=10)
sessions = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    type_annotation_map = {datetime: DateTime(timezone=True), str: Text}  # noqa: RUF012


class User(Base):
    __tablename__ = "users"

    id: Mapped[str] = mapped_column(primary_key=True)
    email: Mapped[str]
    is_active: Mapped[bool]


class UserSession(Base):
    __tablename__ = "sessions"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class UserState(Base):
    __tablename__ = "user_state"

    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), primary_key=True)
    revision: Mapped[int] = mapped_column(BigInteger)


class Task(Base):
    __tablename__ = "tasks"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    title: Mapped[str]
    description: Mapped[str | None]
    status: Mapped[str]
    priority: Mapped[int] = mapped_column(SmallInteger)
    due_date: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    completed_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]
    revision: Mapped[int] = mapped_column(BigInteger, default=0)  # a trigger gives it its number

    @property
    def completed(self) -> bool:
        return self.status == "completed"

    @property
    def priority_label(self) -> str:
        return LABELS[self.priority - 1]


class TaskCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    title: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
    description: Annotated[str | None, Field(max_length=1000)] = None
    status: Literal["pending", "in_progress", "completed"] = "pending"
    priority: Annotated[int, Field(ge=1, le=5)] = 3
    due_date: datetime | None = None


class TaskRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    user_id: str
    title: str
    description: str | None
    status: str
    completed: bool
    priority: int
    priority_label: str
    due_date: datetime | None
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None
    deleted_at: datetime | None
    revision: int


class TaskList(BaseModel):
    items: list[TaskRead]
    next_cursor: str | None
    revision: int


async def get_session() -> AsyncIterator[AsyncSession]:
    async with sessions() as session:
        yield session


Database = Annotated[AsyncSession, Depends(get_session)]


async def current_user(
    session: Database, credentials: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]
) -> User:
    try:
        claims = jwt.decode(
            credentials.credentials,
            KEY,
            algorithms=["HS256"],
            issuer="roundtrip",
            audience="roundtrip-api",
            leeway=30,
            options={"require": ["sub", "sid", "exp"]},
        )
    except jwt.InvalidTokenError:
        raise HTTPException(401) from None
    user = await session.scalar(
        select(User)
        .join(UserSession, UserSession.user_id == User.id)
        .where(UserSession.id == UUID(claims["sid"]), User.id == claims["sub"], User.is_active)
        .where(UserSession.revoked_at.is_(None), UserSession.expires_at > func.now())
    )
    if user is None:
        raise HTTPException(401)
    return user


Caller = Annotated[User, Depends(current_user)]
app = FastAPI()


@app.get("/api/v1/tasks/{task_id}")
async def get_task(task_id: int, session: Database, user: Caller) -> TaskRead:
    task = await session.scalar(
        select(Task).where(Task.id == task_id, Task.user_id == user.id, Task.deleted_at.is_(None))
    )
    if task is None:
        raise HTTPException(404)
    return TaskRead.model_validate(task)


@app.get("/api/v1/tasks")
async def list_tasks(
    session: Database,
    user: Caller,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: str | None = None,
) -> TaskList:
    query = select(Task).where(Task.user_id == user.id, Task.deleted_at.is_(None))
    if cursor:
        created_at, id = json.loads(urlsafe_b64decode(cursor))
        query = query.where(tuple_(Task.created_at, Task.id) < (datetime.fromisoformat(created_at), id))
    found = await session.scalars(query.order_by(Task.created_at.desc(), Task.id.desc()).limit(limit + 1))
    tasks = found.all()
    revision = await session.scalar(select(UserState.revision).where(UserState.user_id == user.id))
    items = [TaskRead.model_validate(task) for task in tasks[:limit]]
    position = [str(items[-1].created_at), items[-1].id] if len(tasks) > limit else None
    next_cursor = urlsafe_b64encode(json.dumps(position).encode()).decode() if position else None
    return TaskList(items=items, next_cursor=next_cursor, revision=revision)


@app.post("/api/v1/tasks", status_code=201)
async def create_task(data: TaskCreate, session: Database, user: Caller) -> TaskRead:
    task = Task(user_id=user.id, **data.model_dump())
    if task.completed:
        task.completed_at = func.now()
    session.add(task)
    await session.commit()
    await session.refresh(task)
    return TaskRead.model_validate(task)
