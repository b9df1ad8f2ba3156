"""Tasks: decode, one statement, encode."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, TypeAlias, cast

import msgspec
from litestar import Response
from litestar.params import FromPath, JSONBody
from msgspec import UNSET, Meta, UnsetType

from db import tasks
from db.tasks import Label, Task
from service import cursors
from service.calls import MAX_ID, Call, answer, empty, number, signed_in, unchanged
from service.errors import Fault, Problem, invalid
from service.settings import Settings

LABELS: tuple[Label, ...] = ("lowest", "low", "medium", "high", "highest")
STATUSES = ("pending", "in_progress", "completed")
PATH = "/api/v1/tasks"

Title: TypeAlias = Annotated[
    str, Meta(description="1 to 200 characters after trimming", examples=["Buy milk"])
]
Description: TypeAlias = Annotated[str, Meta(description="Up to 1,000 characters", examples=["2 litres"])]
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

    def draft(self) -> tasks.Draft:
        """The row it becomes."""
        status = _status(self) or ("completed" if self.completed is True else "pending")
        return tasks.Draft(self.title, self.description, status, _level(self.priority), self.due_date)


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

    def changes(self) -> tasks.Changes:
        """What it sets; `completed: false` says only that the task shall not be a completed one."""
        status = _status(self) or ("completed" if self.completed is True else UNSET)
        return tasks.Changes(
            title=self.title,
            description=self.description,
            status=status,
            priority=UNSET if self.priority is UNSET else _level(self.priority),
            due_date=self.due_date,
            reopen=self.completed is False,
        )


class TaskPage(msgspec.Struct):
    """Which page of the list."""

    limit: Annotated[int, Meta(ge=1, le=500, description="Items of a page")] = 50
    offset: (
        Annotated[int, Meta(ge=0, le=MAX_ID, description="Items to pass over; not with cursor")] | UnsetType
    ) = UNSET
    cursor: (
        Annotated[str, Meta(max_length=500, description="next_cursor of the page before; not with offset")]
        | UnsetType
    ) = UNSET


class TaskDelete(msgspec.Struct):
    """How a task is deleted."""

    permanent: Annotated[bool, Meta(description="For good, and not into the trash")] = False


class TaskList(msgspec.Struct):
    """A page of tasks; `revision` is the user's at that moment."""

    items: Sequence[Task]
    next_cursor: str | None
    revision: int


async def list_tasks(request: Call) -> Response[TaskList]:
    """List live tasks, newest first."""
    page: TaskPage = request.params
    if page.cursor is not UNSET and page.offset is not UNSET:
        raise invalid(Fault("is not taken together with cursor", parameter="offset"))
    before, before_id = cursors.read(page.cursor, "tasks", datetime, int) or tasks.TOP
    window = tasks.Window(before, before_id, 0 if page.offset is UNSET else page.offset, page.limit + 1)
    known = cursors.known_revision(request)
    found = signed_in(await tasks.list(request.db, request.caller, known, window))
    tag = cursors.list_tag(request, found.revision)
    if found.tasks is None:
        return cast("Response[Any]", empty(304, tag=tag))
    items = found.tasks[: page.limit]
    cursor = None
    headers = {}
    if len(found.tasks) > page.limit:
        cursor = cursors.write("tasks", items[-1].created_at, items[-1].id)
        headers["Link"] = cursors.link(request, cursor)
    return answer(TaskList(items, cursor, found.revision), tag=tag, headers=headers)


async def create_task(request: Call, data: JSONBody[TaskCreate]) -> Response[Task]:
    """Create a task."""
    task = signed_in(await tasks.create(request.db, request.caller, data.draft()))
    return answer(task, 201, tag=task.revision, headers={"Location": f"{PATH}/{task.id}"})


async def get_task(request: Call, id: FromPath[str]) -> Response[Task]:
    """Read a task."""
    task = _there(await tasks.get(request.db, request.caller, number(id)))
    if unchanged(request, task.revision):
        return cast("Response[Any]", empty(304, tag=task.revision))
    return answer(task, tag=task.revision)


async def update_task(request: Call, id: FromPath[str], data: JSONBody[TaskPatch]) -> Response[Task]:
    """Change a task."""
    changes = data.changes()
    task = _there(await tasks.update(request.db, request.caller, number(id), request.if_match(), changes))
    return answer(task, tag=task.revision)


async def toggle_task(request: Call, id: FromPath[str]) -> Response[Task]:
    """Complete a task, or make a completed one pending."""
    task = _there(await tasks.toggle(request.db, request.caller, number(id), request.if_match()))
    return answer(task, tag=task.revision)


async def delete_task(request: Call, id: FromPath[str]) -> Response[None]:
    """Delete a task, into the trash or for good."""
    options: TaskDelete = request.params
    if options.permanent:
        _decided(signed_in(await tasks.erase(request.db, request.caller, number(id), request.if_match())))
        return empty()
    task = _there(await tasks.delete(request.db, request.caller, number(id), request.if_match()))
    return empty(tag=task.revision)


async def restore_task(request: Call, id: FromPath[str]) -> Response[Task]:
    """Take a task out of the trash."""
    task = _there(await tasks.restore(request.db, request.caller, number(id), request.if_match()))
    return answer(task, tag=task.revision)


def _there(outcome: tasks.Outcome | None) -> Task:
    found = signed_in(outcome)
    _decided(found.verdict)
    return cast("Task", found.task)


def _decided(verdict: tasks.Verdict) -> None:
    if verdict == "absent":
        raise Problem(404)
    if verdict == "moved":
        raise Problem(412)


def _level(priority: int | Label) -> int:
    return priority if isinstance(priority, int) else LABELS.index(priority) + 1


def _status(data: TaskCreate | TaskPatch) -> tasks.Status | None:
    return None if data.status is UNSET else cast("tasks.Status", data.status.lower())


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
    if data.due_date and not _storable(data.due_date):
        yield Fault("must lie in the years 1 to 9999, in UTC", pointer="/due_date")


def _storable(time: datetime) -> bool:
    try:
        return time.astimezone(UTC).year >= 1
    except OverflowError:
        return False
