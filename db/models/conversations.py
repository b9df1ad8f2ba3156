"""Conversations and their messages: a chatbot's memory."""

from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

from sqlalchemy import BigInteger, CheckConstraint, Column, ForeignKey, Index, String, Text, text
from sqlmodel import Field, Relationship, SQLModel

from db.models.base import identity, moment, owner

if TYPE_CHECKING:
    from db.models.users import User


class Conversation(SQLModel, table=True):
    __tablename__: ClassVar[str] = "conversations"
    __table_args__ = (
        Index("conversations_user_id_updated_at_id_idx", "user_id", text("updated_at desc"), text("id desc")),
        {"comment": "A chatbot's conversations with a user."},
    )

    id: int | None = Field(default=None, sa_column=identity())
    user_id: str = Field(sa_column=owner())
    title: str | None = Field(default=None, max_length=200, sa_column=Column(String(200)))
    version: int = Field(
        default=0,
        sa_column=Column(
            BigInteger,
            nullable=False,
            server_default=text("0"),
            comment="The user's conversations_revision at the last change of it or of its messages; the ETag",
        ),
    )
    created_at: datetime | None = Field(default=None, sa_column=moment("Never changes"))
    updated_at: datetime | None = Field(default=None, sa_column=moment("Moves with every message too"))

    user: "User" = Relationship(back_populates="conversations")
    messages: list["Message"] = Relationship(
        back_populates="conversation",
        cascade_delete=True,
        passive_deletes=True,
        sa_relationship_kwargs={"order_by": "Message.id"},
    )


class Message(SQLModel, table=True):
    __tablename__: ClassVar[str] = "messages"
    __table_args__ = (
        CheckConstraint("role in ('user', 'assistant')", name="messages_role_valid"),
        CheckConstraint("char_length(content) between 1 and 32000", name="messages_content_length"),
        Index("messages_conversation_id_id_idx", "conversation_id", "id"),
        Index("messages_user_id_idx", "user_id"),
        {"comment": "What was said in a conversation, in the order of ids."},
    )

    id: int | None = Field(default=None, sa_column=identity())
    conversation_id: int = Field(
        sa_column=Column(
            BigInteger,
            ForeignKey("conversations.id", ondelete="CASCADE", onupdate="CASCADE"),
            nullable=False,
        )
    )
    user_id: str = Field(sa_column=owner())
    role: str = Field(sa_column=Column(Text, nullable=False, comment="user or assistant"))
    content: str = Field(min_length=1, max_length=32000, sa_column=Column(Text, nullable=False))
    created_at: datetime | None = Field(default=None, sa_column=moment("Never changes"))

    conversation: Conversation = Relationship(back_populates="messages")
    user: "User" = Relationship(back_populates="messages")
