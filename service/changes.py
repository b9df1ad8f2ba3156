"""Incremental sync: what changed since a revision, in the order of revisions."""

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, cast

import msgspec
from litestar import Response
from msgspec import UNSET, Meta, UnsetType

from db import changes
from service import cursors
from service.calls import MAX_ID, Call, answer, empty, signed_in
from service.errors import Fault, Problem, invalid
from service.settings import Settings

_REVISION = re.compile(r"[0-9]{1,19}", re.ASCII)


class Since(msgspec.Struct):
    """Since when, and how many changes."""

    since: (
        Annotated[int, Meta(ge=0, le=MAX_ID, description="Past this revision, 0 for all; not with cursor")]
        | UnsetType
    ) = UNSET
    limit: Annotated[int, Meta(ge=1, le=500, description="Items of a page")] = 50
    cursor: (
        Annotated[str, Meta(max_length=4000, description="next_cursor of the page before; not with since")]
        | UnsetType
    ) = UNSET

    def faults(self, settings: Settings) -> Iterator[Fault]:  # noqa: ARG002
        """What one parameter says against another."""
        if UNSET not in (self.cursor, self.since):
            yield Fault("is not taken together with cursor", parameter="since")

    def window(self, walk: str) -> changes.Window:
        """Which rows; one more than the page has, to see whether there is a next."""
        if self.cursor is UNSET:
            return changes.Window(0 if self.since is UNSET else self.since, None, self.limit + 1)
        begun, since = cursors.read(self.cursor, walk)
        if not _REVISION.fullmatch(begun) or int(begun) > MAX_ID:
            raise invalid(Fault("is not one of ours", parameter="cursor"))
        return changes.Window(since, int(begun), self.limit + 1)


class TaskChanges(msgspec.Struct):
    """Changes by revision; all up to `revision` has been given, which is the `since` of next time."""

    items: Annotated[
        Sequence[Any],  # a Task or an ErasedTask; of a union of two Structs msgspec makes no schema
        Meta(
            extra_json_schema={
                "items": {
                    "anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in ("Task", "ErasedTask")]
                }
            }
        ),
    ]
    revision: int
    has_more: bool
    next_cursor: str | None


async def list_changes(request: Call) -> Response[TaskChanges]:
    """List what changed since a revision, deleted and erased tasks too."""
    page: Since = request.params
    walk = repr(("changes", request.caller.user_id))
    known = cursors.known(request)
    version = changes.Version(*known[1:]) if known else changes.Version()
    found = signed_in(await changes.list(request.db, request.caller, version, page.window(walk)))
    if found.verdict == "gone":
        raise Problem(410)
    if found.verdict == "same" and known:
        return cast("Response[Any]", empty(304, tag=known[0]))
    items = found.items[: page.limit]
    revision, cursor, headers = found.revision, None, {}
    if len(found.items) > page.limit:
        revision = items[-1].revision
        cursor = cursors.write(walk, str(found.purged), revision)
        headers["Link"] = cursors.link(request, cursor)
    tag = cursors.tag(request, found.revision, found.purged)
    return answer(TaskChanges(items, revision, cursor is not None, cursor), tag=tag, headers=headers)
