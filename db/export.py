"""All of a user's data: one function per statement of `sql/export.sql`."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, TypeAlias

import msgspec
from msgspec.structs import astuple

from db import statements
from db.account import User
from db.caller import Caller
from db.conversation import Conversation, Message
from db.pool import Database
from db.task import Task

_SQL = statements.load("export")
PAGE = _SQL["page"]

Row: TypeAlias = User | Task | Conversation | Message
KINDS: tuple[Any, ...] = (User, Task, Conversation, Message)  # in the order of the columns, and of the export
_ENDS = [*accumulate((len(kind.__struct_fields__) for kind in KINDS), initial=2)]
_FIRST = -(2**63)


class Walk(msgspec.Struct):
    """How far an export has come, in each kind of its own."""

    told: bool = False
    created_at: str = "-infinity"
    task_id: int = _FIRST
    conversation_id: int = _FIRST
    talk_id: int = _FIRST
    message_id: int = _FIRST

    def past(self, row: Row) -> None:
        """Go on to behind a row."""
        match row:
            case User():
                self.told = True
            case Task():
                self.created_at, self.task_id = row.created_at, row.id
            case Conversation():
                self.conversation_id = row.id
            case Message():
                self.talk_id, self.message_id = row.conversation_id, row.id


class Page(msgspec.Struct):
    """Rows in the order of the export; there may be `more`."""

    rows: Sequence[Row]
    more: bool


async def page(db: Database, caller: Caller, walk: Walk, size: int, octets: int) -> Page | None:
    """The next rows, `size` at most, and none behind the one with which long texts pass `octets`."""
    found = await db.all(PAGE, caller.user_id, caller.sid, *astuple(walk), size, octets)
    if not found:
        return None
    rows = [_row(columns) for columns in found if columns[1] is not None]
    return Page(rows, more=bool(found[-1][0]))


def _row(columns: Any) -> Row:
    kind = columns[1]
    return KINDS[kind](*columns[_ENDS[kind] : _ENDS[kind + 1]])  # type: ignore[no-any-return]
