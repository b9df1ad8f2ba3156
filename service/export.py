"""Everything of one user, streamed: a page is one statement, and is sent before the next one is read."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, TypeAlias, cast

import msgspec
import structlog
from litestar import Response
from litestar.types import Receive, Scope, Send

from db import export
from db.account import User
from db.conversation import Conversation, Message
from db.errors import Unavailable
from db.task import Task
from service.calls import Call, signed_in
from service.errors import Problem, problem_of

log = structlog.get_logger("service")

NDJSON = "application/x-ndjson"
HEADERS = (
    (b"content-type", NDJSON.encode()),
    (b"content-disposition", b'attachment; filename="roundtrip-export.ndjson"'),
    (b"cache-control", b"no-store"),
)
SIZE, OCTETS = 500, 256 * 1024  # rows and long texts of a page, and so what an export holds in memory


class UserLine(msgspec.Struct, tag_field="type", tag="user"):
    """The account; the first line."""

    data: User


class TaskLine(msgspec.Struct, tag_field="type", tag="task"):
    """A task; in the trash where `deleted_at` is set."""

    data: Task


class ConversationLine(msgspec.Struct, tag_field="type", tag="conversation"):
    """A conversation."""

    data: Conversation


class MessageLine(msgspec.Struct, tag_field="type", tag="message"):
    """A message of a conversation that came before it."""

    data: Message


Line: TypeAlias = UserLine | TaskLine | ConversationLine | MessageLine
_LINES: dict[type, Any] = {
    User: UserLine,
    Task: TaskLine,
    Conversation: ConversationLine,
    Message: MessageLine,
}
# What Unicode, and so many a client, takes for the end of a line too; JSON escapes the others by itself.
_BREAKS = {char.encode(): rb"\u%04x" % ord(char) for char in "\x85\u2028\u2029"}
_encode = msgspec.json.Encoder().encode_lines


async def export_user(request: Call) -> Response[Line]:
    """Export everything of the account, one JSON object a line.

    The user comes first, then tasks (those in the trash too), conversations and messages. What is there from beginning
    to end comes once; what changes meanwhile comes as it is when it is read. A body without its last chunk was cut short.
    """
    walk = export.Walk()
    first = signed_in(await export.page(request.db, request.caller, walk, SIZE, OCTETS))
    return cast("Response[Line]", Stream(_pages(request, walk, first)))


async def _pages(request: Call, walk: export.Walk, page: export.Page) -> AsyncGenerator[bytes, None]:
    """The lines of each page; for HEAD of the first."""
    yield _text(page)
    while page.more and not request.head:
        for row in page.rows:
            walk.past(row)
        page = signed_in(await export.page(request.db, request.caller, walk, SIZE, OCTETS))
        yield _text(page)


def _text(page: export.Page) -> bytes:
    text = _encode([_LINES[type(row)](row) for row in page.rows])
    for char, escaped in _BREAKS.items():
        text = text.replace(char, escaped)
    return text


class Stream(Response[bytes]):
    """A body that is made while it is sent, until the client has all of it or has gone.

    What cannot go on (the session has ended, the database is away) stops without its last chunk, whereupon the server
    drops the connection: the client sees that something is missing. Litestar's own would cancel the statement of a
    client who goes, and wrap what went wrong.
    """

    def __init__(self, pages: AsyncGenerator[bytes, None]) -> None:
        super().__init__(b"")
        self.pages = pages

    def to_asgi_response(self, *_: Any, **__: Any) -> Any:
        """What Litestar calls to have it sent."""
        return self.send

    async def send(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the pages, each once the one before is on its way."""
        await send({"type": "http.response.start", "status": 200, "headers": [*HEADERS]})
        gone = asyncio.create_task(_gone(receive))
        try:
            async with aclosing(self.pages):
                async for page in self.pages:
                    if gone.done():
                        return
                    await send({"type": "http.response.body", "body": page, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (Problem, Unavailable) as error:
            status = problem_of(error).status
            log.warning("stream cut short", status=status, request_id=scope.get("request_id"))
        finally:
            gone.cancel()


async def _gone(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
