"""FastAPI with synchronous SQLModel sessions, as the requirement documents sketch it (their pool, their `get_session`).

Handlers are plain functions, which FastAPI runs on its threads: the documents' `async def` would hold up everybody.
"""

import json
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Literal
from uuid import UUID

import jwt
from fastapi import Depends, FastAPI, HTTPException, Query
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import Field as Bounded
from pydantic import field_validator
from sqlalchemy import BigInteger, Column, DateTime, SmallInteger, Uuid, func, tuple_
from sqlmodel import Field, Session, SQLModel, create_engine, select

KEY = bytes.fromhex(os.environ["TOKEN_KEY"])
LABELS = ("lowest", "low", "medium", "high", "highest")

engine = create_engine(
    os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://"),
    pool_size=20,
    max_overflow=10,
    pool_pre_ping=True,
    pool_recycle=3600,
)


def moment(**options: object) -> DateTime:
    return Field(sa_type=DateTime(timezone=True), **options)


class User(SQLModel, table=True):
    __tablename__ = "users"

    id: str = Field(primary_key=True)
    email: str
    is_active: bool = True


class UserSession(SQLModel, table=True):
    __tablename__ = "sessions"

    id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    user_id: str = Field(foreign_key="users.id")
    expires_at: datetime = moment()
    revoked_at: datetime | None = moment(default=None)


class UserState(SQLModel, table=True):
    __tablename__ = "user_state"

    user_id: str = Field(primary_key=True, foreign_key="users.id")
    revision: int


class Task(SQLModel, table=True):
    __tablename__ = "tasks"

    id: int | None = Field(default=None, sa_column=Column(BigInteger, primary_key=True))
    user_id: str = Field(foreign_key="users.id", index=True)
    title: str = Field(max_length=500)
    description: str | None = None
    status: str = "pending"
    priority: int = Field(default=3, sa_type=SmallInteger)
    due_date: datetime | None = moment(default=None)
    created_at: datetime = moment(default_factory=lambda: datetime.now(UTC))
    updated_at: datetime = moment(default_factory=lambda: datetime.now(UTC))
    completed_at: datetime | None = moment(default=None)
    deleted_at: datetime | None = moment(default=None)
    revision: int = 0  # a trigger gives it its number

    @property
    def completed(self) -> bool:
        return self.status == "completed"

    @property
    def priority_label(self) -> str:
        return LABELS[self.priority - 1]


class TaskCreate(SQLModel):
    title: str = Bounded(min_length=1, max_length=200)
    description: str | None = Bounded(None, max_length=1000)
    status: Literal["pending", "in_progress", "completed"] = "pending"
    priority: int = Bounded(3, ge=1, le=5)
    due_date: datetime | None = None

    @field_validator("title")
    @classmethod
    def title_not_empty(cls, v: str) -> str:
        if not v.strip():
            raise ValueError("Title cannot be empty or whitespace")
        return v.strip()


class TaskRead(SQLModel):
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


class TaskList(SQLModel):
    items: list[TaskRead]
    next_cursor: str | None
    revision: int


def get_session() -> Iterator[Session]:
    with Session(engine) as session:
        yield session


Database = Annotated[Session, Depends(get_session)]


def current_user(
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
    user = session.exec(
        select(User)
        .join(UserSession, UserSession.user_id == User.id)
        .where(UserSession.id == UUID(claims["sid"]), User.id == claims["sub"], User.is_active)
        .where(UserSession.revoked_at.is_(None), UserSession.expires_at > func.now())
    ).first()
    if user is None:
        raise HTTPException(401)
    return user


app = FastAPI()


@app.get("/api/v1/tasks/{task_id}", response_model=TaskRead)
def get_task(task_id: int, session: Database, user: Annotated[User, Depends(current_user)]) -> Task:
    task = session.exec(
        select(Task).where(Task.id == task_id, Task.user_id == user.id, Task.deleted_at.is_(None))
    ).first()
    if task is None:
        raise HTTPException(404)
    return task


@app.get("/api/v1/tasks", response_model=TaskList)
def list_tasks(
    session: Database,
    user: Annotated[User, Depends(current_user)],
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: str | None = None,
) -> dict[str, object]:
    query = select(Task).where(Task.user_id == user.id, Task.deleted_at.is_(None))
    if cursor:
        created_at, id = json.loads(urlsafe_b64decode(cursor))
        query = query.where(tuple_(Task.created_at, Task.id) < (datetime.fromisoformat(created_at), id))
    tasks = session.exec(query.order_by(Task.created_at.desc(), Task.id.desc()).limit(limit + 1)).all()
    revision = session.exec(select(UserState.revision).where(UserState.user_id == user.id)).one()
    items = tasks[:limit]
    last = items[-1] if len(tasks) > limit else None
    return {
        "items": items,
        "next_cursor": last and urlsafe_b64encode(json.dumps([str(last.created_at), last.id]).encode()),
        "revision": revision,
    }


@app.post("/api/v1/tasks", response_model=TaskRead, status_code=201)
def create_task(data: TaskCreate, session: Database, user: Annotated[User, Depends(current_user)]) -> Task:
    task = Task(user_id=user.id, **data.model_dump())
    if task.completed:
        task.completed_at = task.created_at
    session.add(task)
    session.commit()
    session.refresh(task)
    return task
