"""Conversations and their messages, a chatbot's memory: decode, one statement, encode."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, TypeAlias, cast

import msgspec
from litestar import Response
from litestar.params import FromPath, JSONBody
from msgspec import UNSET, Meta, UnsetType

from db import conversations
from db.conversation import Conversation, Message, Role
from db.conversations import Created, Draft, Way
from service import cursors, idempotency
from service.calls import MAX_ID, Call, answer, empty, number, signed_in, unchanged
from service.errors import Fault, Problem, invalid
from service.settings import Settings

PATH = "/api/v1/conversations"
TITLE = 200

Title: TypeAlias = Annotated[
    str,
    Meta(
        description="1 to 200 characters after trimming",
        examples=["Groceries"],
        extra_json_schema={"minLength": 1, "maxLength": TITLE},
    ),
]
Content: TypeAlias = Annotated[
    str, Meta(min_length=1, max_length=32_000, description="What was said", examples=["Add milk to my list"])
]


class ConversationCreate(msgspec.Struct, forbid_unknown_fields=True):
    """A new conversation, with or without a title."""

    title: Title | None = None

    def __post_init__(self) -> None:
        self.title = self.title and self.title.strip()

    def faults(self, settings: Settings) -> Iterator[Fault]:  # noqa: ARG002
        return _faults(self.title)


class ConversationPatch(msgspec.Struct, forbid_unknown_fields=True):
    """A merge patch (RFC 7396): what is absent stays; null clears the title."""

    title: Title | UnsetType | None = UNSET

    def __post_init__(self) -> None:
        self.title = self.title and self.title.strip()

    def faults(self, settings: Settings) -> Iterator[Fault]:  # noqa: ARG002
        return _faults(self.title)


class MessageDraft(msgspec.Struct, forbid_unknown_fields=True):
    """A new message, one of many."""

    role: Role
    content: Content


class MessageCreate(msgspec.Struct, forbid_unknown_fields=True):
    """A new message, `role` and `content`; or several, `messages`, which keep their order."""

    role: Role | UnsetType = UNSET
    content: Content | UnsetType = UNSET
    messages: Annotated[list[MessageDraft], Meta(min_length=1, max_length=100)] | UnsetType = UNSET

    either: ClassVar = {"oneOf": [{"required": ["role", "content"]}, {"required": ["messages"]}]}

    def faults(self, settings: Settings) -> Iterator[Fault]:  # noqa: ARG002
        """What the one form says against the other."""
        if self.messages is not UNSET:
            for name, given in (("role", self.role), ("content", self.content)):
                if given is not UNSET:
                    yield Fault("is not taken together with messages", pointer=f"/{name}")

    def drafts(self) -> Sequence[Draft]:
        """The rows that they become; raises a 422 `Problem` where neither form is whole."""
        if self.messages is not UNSET:
            return [Draft(message.role, message.content) for message in self.messages]
        if self.role is not UNSET and self.content is not UNSET:
            return [Draft(self.role, self.content)]
        missing = [("role", self.role), ("content", self.content)]
        raise invalid(
            *(Fault("is required", pointer=f"/{name}") for name, given in missing if given is UNSET)
        )


class ConversationPage(cursors.Page):
    """Which page of the conversations."""

    def window(self) -> conversations.Window:
        """Which rows; one more than the page has, to see whether there is a next."""
        beyond = () if self.cursor is UNSET else cursors.read(self.cursor, PATH)
        return conversations.Window(self.offset or 0, self.limit + 1, *beyond)


class MessagePage(cursors.Page):
    """Which page of the messages, and from which end."""

    order: Annotated[Way, Meta(description="`asc`: oldest first, `desc`: newest first")] = "asc"

    def beyond(self, walk: str) -> int:
        """The id that the page begins behind."""
        if self.cursor is UNSET:
            return -1 if self.order == "asc" else MAX_ID
        return cursors.read(self.cursor, walk)[1]


class ConversationList(msgspec.Struct):
    """A page of conversations, newest activity first."""

    items: Sequence[Conversation]
    next_cursor: str | None


class MessageList(msgspec.Struct):
    """A page of messages."""

    items: Sequence[Message]
    next_cursor: str | None


class Messages(msgspec.Struct):
    """Messages that were added together, in their order."""

    items: Sequence[Message]


async def list_conversations(request: Call) -> Response[ConversationList]:
    """List conversations, newest activity first."""
    page: ConversationPage = request.params
    known = cursors.known(request)
    found = signed_in(
        await conversations.list(request.db, request.caller, known[1] if known else None, page.window())
    )
    tag = cursors.tag(request, found.revision)
    if found.conversations is None:
        return cast("Response[Any]", empty(304, tag=tag))
    cursor, headers = _next(request, page, found.conversations, PATH, found.positions)
    return answer(ConversationList(found.conversations[: page.limit], cursor), tag=tag, headers=headers)


async def create_conversation(request: Call, data: JSONBody[ConversationCreate]) -> Response[Conversation]:
    """Begin a conversation."""
    made, status, headers = await _created(request, data.title)
    location = {"Location": f"{PATH}/{made.conversation.id}"}
    return answer(made.conversation, status, tag=made.version, headers=location | headers)


async def get_conversation(request: Call, id: FromPath[str]) -> Response[Conversation]:
    """Read a conversation, without its messages."""
    talk, version = _there(await conversations.get(request.db, request.caller, number(id)))
    if unchanged(request, version):
        return cast("Response[Any]", empty(304, tag=version))
    return answer(talk, tag=version)


async def update_conversation(
    request: Call, id: FromPath[str], data: JSONBody[ConversationPatch]
) -> Response[Conversation]:
    """Change a conversation's title."""
    changes = conversations.Changes(data.title)
    outcome = await conversations.update(request.db, request.caller, number(id), request.if_match(), changes)
    talk, version = _there(outcome)
    return answer(talk, tag=version)


async def delete_conversation(request: Call, id: FromPath[str]) -> Response[None]:
    """Delete a conversation with all its messages."""
    verdict = await conversations.delete(request.db, request.caller, number(id), request.if_match())
    _decided(signed_in(verdict))
    return empty()


async def list_messages(request: Call, id: FromPath[str]) -> Response[MessageList]:
    """List the messages of a conversation, oldest first unless asked otherwise."""
    page: MessagePage = request.params
    walk = f"{PATH}/{number(id)}/messages {page.order}"
    known = cursors.known(request)
    found = signed_in(
        await conversations.list_messages(
            request.db,
            page.order,
            request.caller,
            number(id),
            known[1] if known else None,
            page.offset or 0,
            page.limit + 1,
            page.beyond(walk),
        )
    )
    if found.version is None:
        raise Problem(404)
    tag = cursors.tag(request, found.version)
    if found.messages is None:
        return cast("Response[Any]", empty(304, tag=tag))
    cursor, headers = _next(request, page, found.messages, walk)
    return answer(MessageList(found.messages[: page.limit], cursor), tag=tag, headers=headers)


async def create_messages(
    request: Call, id: FromPath[str], data: JSONBody[MessageCreate]
) -> Response[Message | Messages]:
    """Add a message to a conversation, or several at once."""
    said, status, headers = await _said(request, number(id), data.drafts())
    body = said[0] if data.messages is UNSET else Messages(said)
    return answer(body, status, headers={"Location": f"{PATH}/{number(id)}/messages"} | headers)


async def _created(request: Call, title: str | None) -> tuple[Created, int, dict[str, str]]:
    if (key := await idempotency.key(request)) is None:
        return signed_in(await conversations.create(request.db, request.caller, title)), 201, {}
    kept = signed_in(await conversations.create_once(request.db, request.caller, key, title))
    idempotency.check(key, kept)
    return idempotency.read(kept, Created)


async def _said(
    request: Call, id: int, drafts: Sequence[Draft]
) -> tuple[Sequence[Message], int, dict[str, str]]:
    if (key := await idempotency.key(request)) is None:
        said = signed_in(await conversations.create_messages(request.db, request.caller, id, drafts))
        if not said:
            raise Problem(404)
        return said, 201, {}
    kept = signed_in(await conversations.create_messages_once(request.db, request.caller, key, id, drafts))
    idempotency.check(key, kept)
    if kept.result is None:
        raise Problem(404)
    return idempotency.read(kept, list[Message])


def _next(
    request: Call,
    page: cursors.Page,
    rows: Sequence[Conversation] | Sequence[Message],
    walk: str,
    positions: Sequence[str] = (),
) -> tuple[str | None, dict[str, str]]:
    """The cursor of the next page and the header that links to it, where `rows` go on past this page."""
    if len(rows) <= page.limit:
        return None, {}
    last = page.limit - 1
    cursor = cursors.write(walk, positions[last] if positions else "", rows[last].id)
    return cursor, {"Link": cursors.link(request, cursor)}


def _there(outcome: conversations.Outcome | None) -> tuple[Conversation, int]:
    found = signed_in(outcome)
    _decided(found.verdict)
    return cast("Conversation", found.conversation), cast("int", found.version)


def _decided(verdict: conversations.Verdict) -> None:
    if verdict == "absent":
        raise Problem(404)
    if verdict == "moved":
        raise Problem(412)


def _faults(title: str | UnsetType | None) -> Iterator[Fault]:
    if isinstance(title, str) and not 1 <= len(title) <= TITLE:
        yield Fault(f"must have 1 to {TITLE} characters after trimming", pointer="/title")
