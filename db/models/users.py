"""Users, and the narrow row of each that every write locks."""

from datetime import datetime
from typing import TYPE_CHECKING, ClassVar, Optional

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, Index, String, Text, text
from sqlmodel import Field, Relationship, SQLModel

from db.models.base import SPACE, moment, owner

if TYPE_CHECKING:
    from db.models.conversations import Conversation, Message
    from db.models.idempotency import IdempotencyKey
    from db.models.sessions import Session
    from db.models.tasks import Task, Tombstone


class User(SQLModel, table=True):
    __tablename__: ClassVar[str] = "users"
    __table_args__ = (
        CheckConstraint(rf"""email collate "C" ~ '^[^@{SPACE}]+@[^@{SPACE}]+$'""", name="users_email_valid"),
        Index("users_email_key", text("lower(email)"), unique=True),
        {"comment": "Who may sign in. An identity provider may own the table: its columns have defaults."},
    )

    id: str | None = Field(
        default=None,
        sa_column=Column(
            Text(collation="C"),
            primary_key=True,
            # As the catalogue has it: Alembic runs two texts that differ, and these never give the same.
            server_default=text("(gen_random_uuid())::text"),
            comment="Any text; the identity provider may choose it",
        ),
    )
    email: str = Field(
        max_length=255,
        sa_column=Column(
            String(255), nullable=False, comment="As it was given; unique without regard to case"
        ),
    )
    name: str | None = Field(default=None, max_length=255, sa_column=Column(String(255)))
    password_hash: str | None = Field(
        default=None,
        sa_column=Column(Text, comment="argon2id; null for a user who signs in with an identity provider"),
    )
    is_active: bool = Field(
        default=True,
        sa_column=Column(
            Boolean, nullable=False, server_default=text("true"), comment="False ends all access"
        ),
    )
    is_admin: bool = Field(
        default=False, sa_column=Column(Boolean, nullable=False, server_default=text("false"))
    )
    email_verified: bool = Field(
        default=False, sa_column=Column(Boolean, nullable=False, server_default=text("false"))
    )
    image: str | None = Field(default=None, sa_column=Column(Text, comment="Address of a picture"))
    last_login_at: datetime | None = Field(
        default=None, sa_column=moment("Does not move updated_at", null=True)
    )
    created_at: datetime | None = Field(default=None, sa_column=moment("Never changes"))
    updated_at: datetime | None = Field(default=None, sa_column=moment())

    state: Optional["UserState"] = Relationship(
        back_populates="user",
        sa_relationship_kwargs={"uselist": False, "viewonly": True},
    )
    tasks: list["Task"] = Relationship(back_populates="user", cascade_delete=True, passive_deletes=True)
    tombstones: list["Tombstone"] = Relationship(
        back_populates="user", cascade_delete=True, passive_deletes=True
    )
    conversations: list["Conversation"] = Relationship(
        back_populates="user", cascade_delete=True, passive_deletes=True
    )
    messages: list["Message"] = Relationship(back_populates="user", cascade_delete=True, passive_deletes=True)
    sessions: list["Session"] = Relationship(back_populates="user", cascade_delete=True, passive_deletes=True)
    idempotency_keys: list["IdempotencyKey"] = Relationship(
        back_populates="user", cascade_delete=True, passive_deletes=True
    )


class UserState(SQLModel, table=True):
    """Made by a trigger on `users`, never by hand."""

    __tablename__: ClassVar[str] = "user_state"
    __table_args__ = (
        CheckConstraint(
            "0 <= purged_revision and purged_revision <= revision", name="user_state_revision_range"
        ),
        {
            "comment": "What every statement reads and every write locks first, one narrow row for each user.",
            "postgresql_with": {"fillfactor": 50},
        },
    )

    user_id: str = Field(sa_column=owner(primary_key=True))
    revision: int = Field(
        default=0,
        sa_column=Column(
            BigInteger,
            nullable=False,
            server_default=text("0"),
            comment="Grows by one with every changed task: unique, gapless, in the order of commits",
        ),
    )
    purged_revision: int = Field(
        default=0,
        sa_column=Column(
            BigInteger,
            nullable=False,
            server_default=text("0"),
            comment="Tombstones up to here may be gone; an older cursor of sync starts again",
        ),
    )
    conversations_revision: int = Field(
        default=0,
        sa_column=Column(
            BigInteger,
            nullable=False,
            server_default=text("0"),
            comment="Grows by one with every change of a conversation or of its messages, in the order of commits",
        ),
    )
    is_active: bool = Field(
        default=True,
        sa_column=Column(
            Boolean,
            nullable=False,
            server_default=text("true"),
            comment="A copy of users.is_active, by trigger",
        ),
    )
    tokens_valid_from: datetime | None = Field(
        default=None,
        sa_column=moment(
            "Tokens of an identity provider that were issued before this are refused",
            default="to_timestamp(0)",
        ),
    )

    user: User = Relationship(back_populates="state", sa_relationship_kwargs={"viewonly": True})
