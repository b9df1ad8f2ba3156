"""Idempotency keys: the stored answers to requests that may be sent again."""

from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

from sqlalchemy import CheckConstraint, Column, LargeBinary, SmallInteger, Text
from sqlmodel import Field, Relationship, SQLModel

from db.models.base import moment, owner

if TYPE_CHECKING:
    from db.models.users import User


class IdempotencyKey(SQLModel, table=True):
    __tablename__: ClassVar[str] = "idempotency_keys"
    __table_args__ = (
        CheckConstraint("char_length(key) between 1 and 255", name="idempotency_keys_key_length"),
        {"comment": "Answers kept for 24 hours, each stored by the statement that had the effect."},
    )

    user_id: str = Field(sa_column=owner(primary_key=True))
    route: str = Field(sa_column=Column(Text, primary_key=True, comment="The template of the route"))
    key: str = Field(
        min_length=1,
        max_length=255,
        sa_column=Column(Text, primary_key=True, comment="As the client sent it"),
    )
    fingerprint: bytes = Field(
        sa_column=Column(
            LargeBinary, nullable=False, comment="Hash of path, query and body; another one is refused"
        )
    )
    status: int = Field(
        sa_column=Column(SmallInteger, nullable=False, comment="The HTTP status of the answer")
    )
    result: str | None = Field(
        default=None, sa_column=Column(Text, comment="JSON that the answer is encoded from again")
    )
    created_at: datetime | None = Field(default=None, sa_column=moment())

    user: "User" = Relationship(back_populates="idempotency_keys")
