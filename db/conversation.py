"""A conversation and its messages: what rows become, for every resource that shows them."""

from typing import Literal, TypeAlias

import msgspec

from db.types import Instant

Role: TypeAlias = Literal["user", "assistant"]


class Conversation(msgspec.Struct, gc=False):
    """A conversation as its statements give it and as the API shows it; times in UTC."""

    id: int
    user_id: str
    title: str | None
    created_at: Instant
    updated_at: Instant


class Message(msgspec.Struct, gc=False):
    """A message as its statements give it and as the API shows it."""

    id: int
    conversation_id: int
    user_id: str
    role: Role
    content: str
    created_at: Instant
