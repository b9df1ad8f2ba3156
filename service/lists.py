"""The query of a task list: what it filters, how it sorts, and which page of it."""

import re
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated, Literal, TypeAlias, cast

import msgspec
from msgspec import UNSET, Meta, UnsetType

from db import tasks
from service import cursors
from service.errors import Fault
from service.settings import Settings
from service.task import STATUSES, Priority, Status, Time, level, storable

ZONES = zoneinfo.available_timezones()
# fmt: off
Order: TypeAlias = Literal[
    "created_at", "updated_at", "due_date", "priority", "title", "status",
    "-created_at", "-updated_at", "-due_date", "-priority", "-title", "-status",
]
# fmt: on

_WORD = re.compile(r"[^\W_]")


class TaskPage(cursors.Page, dict=True):
    """Which tasks, in which order, and which page of them. The lean path keeps it for the next request that asks the same."""

    status: Annotated[tuple[Status, ...], Meta(description="One of these, repeatable")] = ()
    priority: Annotated[tuple[Priority, ...], Meta(description="One of these, repeatable")] = ()
    completed: Annotated[bool, Meta(description="Completed, or not")] | UnsetType = UNSET
    due_before: Annotated[Time, Meta(description="Due before this moment")] | UnsetType = UNSET
    due_after: Annotated[Time, Meta(description="Due at this moment or after it")] | UnsetType = UNSET
    created_before: Annotated[Time, Meta(description="Created before this moment")] | UnsetType = UNSET
    created_after: Annotated[Time, Meta(description="Created at this moment or after it")] | UnsetType = UNSET
    updated_after: Annotated[Time, Meta(description="Changed at this moment or after it")] | UnsetType = UNSET
    overdue: (
        Annotated[bool, Meta(description="Due before now and not completed, or the others")] | UnsetType
    ) = UNSET
    q: (
        Annotated[
            str,
            Meta(
                max_length=1000,
                description="Each of its words begins a word of title or description, in any case",
                examples=["buy milk"],
            ),
        ]
        | UnsetType
    ) = UNSET
    deleted: Annotated[bool, Meta(description="The trash instead")] = False
    sort: Annotated[Order, Meta(description="`-` for descending; ties by id in the same direction")] = (
        "-created_at"
    )
    count: Annotated[bool, Meta(description="Give the total, over all pages")] = False

    def faults(self, settings: Settings) -> Iterator[Fault]:
        """What one parameter says against another, and times that cannot be."""
        yield from cursors.Page.faults(self, settings)
        if self.q is not UNSET and not _WORD.search(self.q):
            yield Fault("must have a word: a letter or a digit", parameter="q")
        if any(status.lower() not in STATUSES for status in self.status):
            yield Fault(f"must be one of {', '.join(STATUSES)}", parameter="status")
        for name in ("due_before", "due_after", "created_before", "created_after", "updated_after"):
            if (time := getattr(self, name)) is not UNSET and not storable(time):
                yield Fault("must lie in the years 1 to 9999, in UTC", parameter=name)

    @cached_property
    def shape(self) -> tasks.Shape:
        """The member of the family of lists that answers it."""
        return tasks.Shape(
            "trash" if self.deleted else "live",
            self._rows(),
            cast("tasks.Sort", self.sort.removeprefix("-")),
            "desc" if self.sort.startswith("-") else "asc",
            "counted" if self.count else "without",
        )

    def _rows(self) -> Literal["plain", "filtered", "searched"]:
        if self.q is not UNSET:
            return "searched"
        return "plain" if self.filters == tasks.Filters() else "filtered"

    @cached_property
    def filters(self) -> tasks.Filters:
        """The filters, each with a value."""
        statuses = {status.lower() for status in self.status} or {*STATUSES}
        if self.completed is not UNSET:
            statuses &= {"completed"} if self.completed else {"pending", "in_progress"}
        levels = {level(priority) for priority in self.priority} or {1, 2, 3, 4, 5}
        neutral = tasks.Filters()
        return tasks.Filters(
            statuses=",".join(status for status in STATUSES if status in statuses),
            priorities=",".join(map(str, sorted(levels))),
            without_due_date=self.due_after is UNSET and self.due_before is UNSET,
            due_after=_text(self.due_after, neutral.due_after),
            due_before=_text(self.due_before, neutral.due_before),
            created_after=_text(self.created_after, neutral.created_after),
            created_before=_text(self.created_before, neutral.created_before),
            updated_after=_text(self.updated_after, neutral.updated_after),
            overdue="any" if self.overdue is UNSET else "yes" if self.overdue else "no",
        )

    @cached_property
    def walk(self) -> str:
        """What a cursor of this list belongs to: its filters and its sort."""
        return repr((self.deleted, self.sort, self.q, self.filters))

    @cached_property
    def window(self) -> tasks.Window:
        """Which rows; one more than the page has, to see whether there is a next."""
        shape = self.shape
        beyond = (
            tasks.edge(shape.sort, shape.way)
            if self.cursor is UNSET
            else cursors.read(self.cursor, self.walk)
        )
        return tasks.Window(0 if self.offset is UNSET else self.offset, self.limit + 1, *beyond)


class TaskStatsQuery(msgspec.Struct):
    """What today is."""

    tz: Annotated[
        str, Meta(description="An IANA time zone, for what today is", examples=["Europe/Berlin"])
    ] = "UTC"

    def faults(self, settings: Settings) -> Iterator[Fault]:  # noqa: ARG002
        if self.tz not in ZONES:
            yield Fault("is not an IANA time zone such as Europe/Berlin", parameter="tz")


def _text(time: datetime | UnsetType, neutral: str) -> str:
    return neutral if time is UNSET else time.astimezone(UTC).isoformat()
