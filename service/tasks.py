"""Tasks: decode, one statement, encode."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, TypeAlias, cast

import msgspec
from litestar import Response
from litestar.params import FromPath, JSONBody
from msgspec import UNSET, Meta, UnsetType

from db import tasks
from db.tasks import Task
from service import cursors
from service.calls import Call, answer, empty, number, signed_in, unchanged
from service.errors import Fault, Problem
from service.lists import STATUSES, Priority, Status, TaskPage, TaskStatsQuery, Time, level, storable
from service.settings import Settings

PATH = "/api/v1/tasks"

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

    def draft(self) -> tasks.Draft:
        """The row it becomes."""
        status = _status(self) or ("completed" if self.completed is True else "pending")
        return tasks.Draft(self.title, self.description, status, level(self.priority), self.due_date)


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
            priority=UNSET if self.priority is UNSET else level(self.priority),
            due_date=self.due_date,
            reopen=self.completed is False,
        )


class TaskDelete(msgspec.Struct):
    """How a task is deleted."""

    permanent: Annotated[bool, Meta(description="For good, and not into the trash")] = False


class TaskList(msgspec.Struct):
    """A page of tasks; `revision` is the user's at that moment, `total` is there where `count` asked for it."""

    items: Sequence[Task]
    next_cursor: str | None
    revision: int
    total: int | UnsetType = UNSET


class ByPriority(msgspec.Struct):
    """Tasks of each priority."""

    lowest: int = msgspec.field(name="1")
    low: int = msgspec.field(name="2")
    medium: int = msgspec.field(name="3")
    high: int = msgspec.field(name="4")
    highest: int = msgspec.field(name="5")


class TaskStats(msgspec.Struct):
    """Counts over the live tasks; `completion_rate` is 0 to 1, `due_today` by the day of `tz`."""

    total: int
    pending: int
    in_progress: int
    completed: int
    overdue: int
    due_today: int
    trashed: int
    by_priority: ByPriority
    completion_rate: float
    revision: int


async def list_tasks(request: Call) -> Response[TaskList]:
    """List tasks, live ones newest first unless asked otherwise."""
    page: TaskPage = request.params
    found = signed_in(
        await tasks.list(
            request.db,
            page.shape(),
            request.caller,
            _known(request),
            page.window(),
            page.filters(),
            page.q or "",
        )
    )
    if found.tasks is None:
        return _not_modified(request)
    items = found.tasks[: page.limit]
    cursor = None
    headers = {}
    if len(found.tasks) > page.limit:
        cursor = cursors.write(page.walk(), found.positions[page.limit - 1], items[-1].id)
        headers["Link"] = cursors.link(request, cursor)
    total = UNSET if found.total is None else found.total
    tag = cursors.tag(request, found.revision, found.until)
    return answer(TaskList(items, cursor, found.revision, total), tag=tag, headers=headers)


async def get_stats(request: Call) -> Response[TaskStats]:
    """Count tasks by status, priority and time."""
    query: TaskStatsQuery = request.params
    counted = signed_in(await tasks.stats(request.db, request.caller, _known(request), query.tz))
    if (found := counted.stats) is None:
        return _not_modified(request)
    stats = TaskStats(
        total=found.total,
        pending=found.pending,
        in_progress=found.in_progress,
        completed=found.completed,
        overdue=found.overdue,
        due_today=found.due_today,
        trashed=found.trashed,
        by_priority=ByPriority(
            found.priority_1, found.priority_2, found.priority_3, found.priority_4, found.priority_5
        ),
        completion_rate=found.completed / found.total if found.total else 0,
        revision=counted.revision,
    )
    return answer(stats, tag=cursors.tag(request, counted.revision, found.until))


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


def _known(request: Call) -> tasks.Version:
    """The version of this list or statistic that the client has."""
    known = cursors.known(request)
    return tasks.Version(*known[1:]) if known else tasks.Version()


def _not_modified(request: Call) -> Response[Any]:
    known = cursors.known(request)
    return empty(304, tag=known[0] if known else None)


def _there(outcome: tasks.Outcome | None) -> Task:
    found = signed_in(outcome)
    _decided(found.verdict)
    return cast("Task", found.task)


def _decided(verdict: tasks.Verdict) -> None:
    if verdict == "absent":
        raise Problem(404)
    if verdict == "moved":
        raise Problem(412)


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
    if data.due_date and not storable(data.due_date):
        yield Fault("must lie in the years 1 to 9999, in UTC", pointer="/due_date")
