"""Conversations and their messages in the database: one function per statement of `sql/conversations.sql`."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import astuple

from db import statements
from db.caller import Caller
from db.conversation import Conversation, Message, Role
from db.idempotency import Kept, Key
from db.pool import Database

_SQL = statements.load("conversations")
LIST = _SQL["list"]
GET = _SQL["get"]
CREATE = _SQL["create"]
CREATE_ONCE = _SQL["create_once"]
UPDATE = _SQL["update"]
DELETE = _SQL["delete"]
LISTS_OF_MESSAGES = statements.family("conversations", "list_messages")
CREATE_MESSAGES = _SQL["create_messages"]
CREATE_MESSAGES_ONCE = _SQL["create_messages_once"]

Way: TypeAlias = Literal["asc", "desc"]
Verdict: TypeAlias = Literal["absent", "moved", "same", "done"]
IfMatch: TypeAlias = Sequence[int] | None  # versions that a conversation may have, None for any

_encode = msgspec.json.Encoder().encode


class Draft(msgspec.Struct):
    """What a new message is made of."""

    role: Role
    content: str


class Changes(msgspec.Struct):
    """A merge patch: what is unset stays."""

    title: str | UnsetType | None = UNSET


class Window(msgspec.Struct):
    """Which rows of the list: past `skip`, `size` at most, beyond the position (`after`, `after_id`)."""

    skip: int
    size: int
    after: str = "infinity"
    after_id: int = 2**63 - 1


class Created(msgspec.Struct):
    """A new conversation and its version."""

    version: int
    conversation: Conversation


class Outcome(msgspec.Struct):
    """What became of a write; the conversation as it is now, None where it is absent or has moved on."""

    verdict: Verdict
    version: int | None
    conversation: Conversation | None


class Listed(msgspec.Struct):
    """A page and the number of changes that it was read at; `conversations` is None where that number was known.

    `positions` are where each stands in the list.
    """

    revision: int
    conversations: Sequence[Conversation] | None
    positions: Sequence[str] = ()


class Said(msgspec.Struct):
    """A page of messages and the version of their conversation, None where there is none.

    `messages` is None where that version was known.
    """

    version: int | None
    messages: Sequence[Message] | None


async def list(db: Database, caller: Caller, revision: int | None, window: Window) -> Listed | None:
    """A page of conversations, newest activity first; nothing is read where `revision` still holds."""
    rows = await db.all(LIST, caller.user_id, caller.sid, revision, *astuple(window))
    if not rows:
        return None
    now = rows[0][0]
    if now == revision:
        return Listed(now, None)
    found = [row for row in rows if row[2] is not None]
    return Listed(now, [Conversation(*row[2:]) for row in found], [row[1] for row in found])


async def get(db: Database, caller: Caller, conversation_id: int) -> Outcome | None:
    """One conversation, `same` or `absent`."""
    row = await db.one(GET, caller.user_id, caller.sid, conversation_id)
    return None if row is None else _outcome("absent" if row[0] is None else "same", row)


async def create(db: Database, caller: Caller, title: str | None) -> Created | None:
    """A new conversation."""
    row = await db.one(CREATE, caller.user_id, caller.sid, title)
    return None if row is None else Created(row[0], Conversation(*row[1:]))


async def create_once(db: Database, caller: Caller, key: Key, title: str | None) -> Kept | None:
    """The same under an idempotency key; the result is a `Created`."""
    row = await db.one(CREATE_ONCE, caller.user_id, caller.sid, *astuple(key), title)
    return None if row is None else Kept(*row)


async def update(
    db: Database, caller: Caller, conversation_id: int, if_match: IfMatch, changes: Changes
) -> Outcome | None:
    """Change what is set; `same` where nothing differs, and the version stays."""
    pairs = (
        part for value in astuple(changes) for part in ((False, None) if value is UNSET else (True, value))
    )
    row = await db.one(UPDATE, caller.user_id, caller.sid, conversation_id, _text(if_match), *pairs)
    return None if row is None else _outcome(row[0], row[1:])


async def delete(db: Database, caller: Caller, conversation_id: int, if_match: IfMatch) -> Verdict | None:
    """Gone for good, with all its messages."""
    row = await db.one(DELETE, caller.user_id, caller.sid, conversation_id, _text(if_match))
    return None if row is None else row[0]


async def list_messages(
    db: Database,
    shape: Way,
    caller: Caller,
    conversation_id: int,
    version: int | None,
    skip: int,
    size: int,
    after_id: int,
) -> Said | None:
    """A page of messages, oldest or newest first; none is read where the conversation still has `version`."""
    rows = await db.all(
        LISTS_OF_MESSAGES[(shape,)],
        caller.user_id,
        caller.sid,
        conversation_id,
        version,
        skip,
        size,
        after_id,
    )
    if not rows:
        return None
    now = rows[0][0]
    if now is None or now == version:
        return Said(now, None)
    return Said(now, [Message(*row[1:]) for row in rows if row[1] is not None])


async def create_messages(
    db: Database, caller: Caller, conversation_id: int, drafts: Sequence[Draft]
) -> Sequence[Message] | None:
    """New messages in their order, at the end of a conversation; none of them where there is no such conversation."""
    json = _encode(drafts).decode()
    rows = await db.all(CREATE_MESSAGES, caller.user_id, caller.sid, conversation_id, json)
    return [Message(*row) for row in rows if row[0] is not None] if rows else None


async def create_messages_once(
    db: Database, caller: Caller, key: Key, conversation_id: int, drafts: Sequence[Draft]
) -> Kept | None:
    """The same under an idempotency key; the result is a list of `Message`."""
    json = _encode(drafts).decode()
    row = await db.one(CREATE_MESSAGES_ONCE, caller.user_id, caller.sid, *astuple(key), conversation_id, json)
    return None if row is None else Kept(*row)


def _text(if_match: IfMatch) -> str | None:
    return None if if_match is None else ",".join(map(str, if_match))


def _outcome(verdict: Verdict, row: Any) -> Outcome:
    if verdict in ("absent", "moved"):
        return Outcome(verdict, None, None)
    return Outcome(verdict, row[0], Conversation(*row[1:]))
