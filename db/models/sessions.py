"""Sessions: one row for each family of refresh tokens."""

from datetime import datetime
from typing import TYPE_CHECKING, ClassVar
from uuid import UUID

from sqlalchemy import CheckConstraint, Column, Index, LargeBinary, Text, Uuid
from sqlalchemy.dialects.postgresql import INET
from sqlmodel import Field, Relationship, SQLModel

from db.models.base import moment, owner

if TYPE_CHECKING:
    from db.models.users import User


class Session(SQLModel, table=True):
    __tablename__: ClassVar[str] = "sessions"
    __table_args__ = (
        CheckConstraint("char_length(user_agent) <= 500", name="sessions_user_agent_length"),
        Index("sessions_user_id_idx", "user_id"),
        {"comment": "Signed-in devices. An access token names its session, and every statement looks at it."},
    )

    id: UUID = Field(
        sa_column=Column(Uuid, primary_key=True, comment="The `sid` of the tokens; never changes")
    )
    user_id: str = Field(sa_column=owner())
    refresh_hash: bytes = Field(
        sa_column=Column(LargeBinary, nullable=False, comment="SHA-256 of the current refresh token")
    )
    previous_hash: bytes | None = Field(
        default=None,
        sa_column=Column(LargeBinary, comment="Of the one before it, which is good for a grace period"),
    )
    rotated_at: datetime | None = Field(
        default=None, sa_column=moment("When the previous token was spent", null=True)
    )
    user_agent: str | None = Field(default=None, max_length=500, sa_column=Column(Text))
    ip: str | None = Field(default=None, sa_column=Column(INET))
    created_at: datetime | None = Field(default=None, sa_column=moment())
    last_used_at: datetime | None = Field(default=None, sa_column=moment())
    expires_at: datetime = Field(sa_column=moment(default=None))
    revoked_at: datetime | None = Field(
        default=None, sa_column=moment("Set when the session was ended", null=True)
    )

    user: "User" = Relationship(back_populates="sessions")
