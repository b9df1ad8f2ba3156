"""Tasks, and what is left of those that were erased."""

from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Text,
    text,
)
from sqlmodel import Field, Relationship, SQLModel

from db.models.base import FIRST_MOMENT, PAST_LAST_MOMENT, SPACE, identity, moment, owner

if TYPE_CHECKING:
    from db.models.users import User


class Task(SQLModel, table=True):
    __tablename__: ClassVar[str] = "tasks"
    __table_args__ = (
        CheckConstraint(rf"""title collate "C" ~ '[^{SPACE}]'""", name="tasks_title_length"),
        CheckConstraint("char_length(description) <= 20000", name="tasks_description_length"),
        CheckConstraint("status in ('pending', 'in_progress', 'completed')", name="tasks_status_valid"),
        CheckConstraint("priority between 1 and 5", name="tasks_priority_range"),
        CheckConstraint(
            f"due_date >= {FIRST_MOMENT} and due_date < {PAST_LAST_MOMENT}", name="tasks_due_date_range"
        ),
        CheckConstraint(
            f"least(created_at, updated_at, completed_at, deleted_at) >= {FIRST_MOMENT}"
            f" and greatest(created_at, updated_at, completed_at, deleted_at) < {PAST_LAST_MOMENT}",
            name="tasks_times_range",
        ),
        CheckConstraint(
            "(status = 'completed') = (completed_at is not null)", name="tasks_completed_at_iff_completed"
        ),
        Index(
            "tasks_user_id_created_at_id_idx",
            "user_id",
            text("created_at desc"),
            text("id desc"),
            postgresql_where=text("deleted_at is null"),
        ),
        Index(
            "tasks_trash_idx",
            "user_id",
            text("created_at desc"),
            text("id desc"),
            postgresql_where=text("deleted_at is not null"),
        ),
        Index("tasks_user_id_revision_idx", "user_id", "revision"),
        Index(
            "tasks_user_id_import_key_key",
            "user_id",
            "import_key",
            unique=True,
            postgresql_where=text("import_key is not null"),
        ),
        {"comment": "The tasks, live ones and those in the trash."},
    )

    id: int | None = Field(default=None, sa_column=identity())
    user_id: str = Field(sa_column=owner())
    title: str = Field(max_length=500, sa_column=Column(String(500), nullable=False))
    description: str | None = Field(default=None, max_length=20000, sa_column=Column(Text))
    status: str = Field(
        default="pending",
        sa_column=Column(
            Text,
            nullable=False,
            server_default=text("'pending'"),
            comment="pending, in_progress or completed",
        ),
    )
    priority: int = Field(
        default=3,
        ge=1,
        le=5,
        sa_column=Column(
            SmallInteger,
            nullable=False,
            server_default=text("3"),
            comment="1 lowest, 2 low, 3 medium, 4 high, 5 highest",
        ),
    )
    due_date: datetime | None = Field(default=None, sa_column=moment(null=True))
    created_at: datetime | None = Field(default=None, sa_column=moment("Never changes"))
    updated_at: datetime | None = Field(default=None, sa_column=moment("Never goes back"))
    completed_at: datetime | None = Field(
        default=None, sa_column=moment("Set if and only if the status is completed", null=True)
    )
    deleted_at: datetime | None = Field(
        default=None, sa_column=moment("Set while it is in the trash", null=True)
    )
    revision: int = Field(
        default=0,
        sa_column=Column(
            BigInteger,
            nullable=False,
            server_default=text("0"),
            comment="The user's revision at the last change; 0 only until the statement that wrote it ends",
        ),
    )
    import_key: str | None = Field(
        default=None,
        sa_column=Column(Text, comment="Names an imported task, so that a second import finds it"),
    )

    user: "User" = Relationship(back_populates="tasks")


class Tombstone(SQLModel, table=True):
    __tablename__: ClassVar[str] = "tombstones"
    __table_args__ = (
        Index("tombstones_user_id_revision_idx", "user_id", "revision"),
        {"comment": "Tasks that were erased: nothing of their content, only what sync must tell."},
    )

    user_id: str = Field(sa_column=owner(primary_key=True))
    task_id: int = Field(
        sa_column=Column(
            BigInteger, primary_key=True, autoincrement=False, comment="The id that the task had"
        )
    )
    revision: int = Field(
        sa_column=Column(BigInteger, nullable=False, comment="The user's revision at which it was erased")
    )
    deleted_at: datetime | None = Field(default=None, sa_column=moment("When it was erased"))

    user: "User" = Relationship(back_populates="tombstones")


class TaskTexts(SQLModel, table=True):
    """Made by triggers on `tasks`, never by hand; apart from it, so that only a change of the text writes here."""

    __tablename__: ClassVar[str] = "task_texts"
    __table_args__ = (
        PrimaryKeyConstraint("user_id", "task_id", postgresql_include=["text"]),
        {
            "comment": "What search looks through: the title and description of each task.",
            "postgresql_with": {
                "autovacuum_vacuum_scale_factor": 0.02,
                "autovacuum_vacuum_insert_scale_factor": 0.02,
            },
        },
    )

    user_id: str = Field(sa_column=Column(Text(collation="C"), nullable=False))
    task_id: int = Field(sa_column=Column(BigInteger, nullable=False, autoincrement=False))
    text: str = Field(
        sa_column=Column(Text, nullable=False, comment="In lower case; the first 300 characters")
    )
