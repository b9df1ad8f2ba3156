"""A task as clients write it: a new one, and a merge patch."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, TypeAlias, cast

import msgspec
from msgspec import UNSET, Meta, UnsetType

from db import task
from db.task import Label
from service.errors import Fault
from service.settings import Settings

LABELS: tuple[Label, ...] = ("lowest", "low", "medium", "high", "highest")
STATUSES = ("pending", "in_progress", "completed")

Status: TypeAlias = Annotated[
    str,
    Meta(description="In any case", examples=["in_progress"], extra_json_schema={"enum": [*STATUSES]}),
]
Priority: TypeAlias = Annotated[
    Annotated[int, Meta(ge=1, le=5)] | Label, Meta(description="1 to 5, or its label", examples=[4, "high"])
]
Time: TypeAlias = Annotated[
    datetime, Meta(tz=True, description="RFC 3339, with a zone", examples=["2026-12-31T17:00:00Z"])
]
Title: TypeAlias = Annotated[
    str, Meta(description="1 to 200 characters after trimming", examples=["Buy milk"])
]
Description: TypeAlias = Annotated[str, Meta(description="Up to 1,000 characters", examples=["2 litres"])]


class TaskCreate(msgspec.Struct, forbid_unknown_fields=True):
    """A new task; only its title is required."""

    title: Title
    description: Description | None = None
    status: Status | UnsetType = UNSET
    completed: bool | UnsetType = UNSET
    priority: Priority = 3
    due_date: Time | None = None

    def __post_init__(self) -> None:
        self.title = self.title.strip()

    def faults(self, settings: Settings) -> Iterator[Fault]:
        return _faults(self, settings)

    def draft(self) -> task.Draft:
        """The row it becomes."""
        status = _status(self) or ("completed" if self.completed is True else "pending")
        return task.Draft(self.title, self.description, status, level(self.priority), self.due_date)


class TaskPatch(msgspec.Struct, forbid_unknown_fields=True):
    """A merge patch (RFC 7396): what is absent stays; null clears `description` and `due_date`."""

    title: Title | UnsetType = UNSET
    description: Description | UnsetType | None = UNSET
    status: Status | UnsetType = UNSET
    completed: bool | UnsetType = UNSET
    priority: Priority | UnsetType = UNSET
    due_date: Time | UnsetType | None = UNSET

    def __post_init__(self) -> None:
        if self.title is not UNSET:
            self.title = self.title.strip()

    def faults(self, settings: Settings) -> Iterator[Fault]:
        return _faults(self, settings)

    def changes(self) -> task.Changes:
        """What it sets; `completed: false` says only that the task shall not be a completed one."""
        status = _status(self) or ("completed" if self.completed is True else UNSET)
        return task.Changes(
            title=self.title,
            description=self.description,
            status=status,
            priority=UNSET if self.priority is UNSET else level(self.priority),
            due_date=self.due_date,
            reopen=self.completed is False,
        )


def level(priority: int | Label) -> int:
    """A priority as it is stored."""
    return priority if isinstance(priority, int) else LABELS.index(priority) + 1


def storable(time: datetime) -> bool:
    """Whether a time lies in the years 1 to 9999 in UTC, too."""
    try:
        return time.astimezone(UTC).year >= 1
    except OverflowError:
        return False


def _status(data: TaskCreate | TaskPatch) -> task.Status | None:
    return None if data.status is UNSET else cast("task.Status", data.status.lower())


def _faults(data: TaskCreate | TaskPatch, settings: Settings) -> Iterator[Fault]:
    if data.title is not UNSET and not 1 <= len(data.title) <= settings.title_max_length:
        yield Fault(f"must have 1 to {settings.title_max_length} characters after trimming", pointer="/title")
    if data.description and len(data.description) > settings.description_max_length:
        yield Fault(f"must have {settings.description_max_length} characters at most", pointer="/description")
    if data.status is not UNSET:
        status = data.status.lower()
        if status not in STATUSES:
            yield Fault(f"must be one of {', '.join(STATUSES)}", pointer="/status")
        elif data.completed is not UNSET and data.completed != (status == "completed"):
            yield Fault("contradicts status", pointer="/completed")
    if data.due_date and not storable(data.due_date):
        yield Fault("must lie in the years 1 to 9999, in UTC", pointer="/due_date")
