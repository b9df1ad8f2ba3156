"""Tasks: decode, one statement, encode."""

from collections.abc import Awaitable, Sequence
from typing import Annotated, Any, cast

import msgspec
from litestar import Response
from litestar.params import FromPath, JSONBody
from msgspec import UNSET, Meta, UnsetType

from db import tasks
from db.task import Task
from service import cursors, idempotency
from service.calls import Call, Json, answer, empty, number, signed_in, unchanged
from service.errors import Problem
from service.lists import TaskPage, TaskStatsQuery
from service.task import TaskCreate, TaskPatch

PATH = "/api/v1/tasks"


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
    return listed(request, await asked(request))


def asked(request: Call) -> Awaitable[tasks.Listed | None]:
    """The page that a query asks for."""
    page: TaskPage = request.params
    known = _known(request)
    return tasks.list(request.db, page.shape, request.caller, known, page.window, page.filters, page.q or "")


def listed(request: Call, listed: tasks.Listed | None) -> Response[TaskList]:
    """The answer that a page becomes."""
    page: TaskPage = request.params
    found = signed_in(listed)
    if not found.fresh:
        return _unchanged(request)
    lines = found.lines.split("\n") if found.lines else []
    items = cast("Sequence[Task]", msgspec.Raw(f"[{','.join(lines[: page.limit])}]".encode()))
    cursor = None
    headers = {}
    if len(lines) > page.limit and found.position is not None and found.last_id is not None:
        cursor = cursors.write(page.walk, found.position, found.last_id)
        headers["Link"] = cursors.link(request, cursor)
    total = UNSET if found.total is None else found.total
    tag = cursors.tag(request, found.revision, found.until)
    answered = answer(TaskList(items, cursor, found.revision, total), tag=tag, headers=headers)
    return _kept(request, found.revision, found.until, answered)


async def get_stats(request: Call) -> Response[TaskStats]:
    """Count tasks by status, priority and time."""
    query: TaskStatsQuery = request.params
    counted = signed_in(await tasks.stats(request.db, request.caller, _known(request), query.tz))
    if (found := counted.stats) is None:
        return _unchanged(request)
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
    answered = answer(stats, tag=cursors.tag(request, counted.revision, found.until))
    return _kept(request, counted.revision, found.until, answered)


async def create_task(request: Call, data: JSONBody[TaskCreate]) -> Response[Task]:
    """Create a task."""
    if (key := await idempotency.key(request)) is None:
        return made(request, await tasks.create(request.db, request.caller, data.draft()))
    kept = signed_in(await tasks.create_once(request.db, request.caller, key, data.draft()))
    idempotency.check(key, kept)
    return _made(*idempotency.read(kept, Task))


def made(_: Call, task: Task | None) -> Response[Task]:
    """The answer that a new task becomes."""
    return _made(signed_in(task), 201, {})


def _made(task: Task, status: int, headers: dict[str, str]) -> Response[Task]:
    return answer(task, status, tag=task.revision, headers={"Location": f"{PATH}/{task.id}"} | headers)


async def get_task(request: Call, id: FromPath[str]) -> Response[Task]:
    """Read a task."""
    found = await tasks.get(request.db, request.caller, number(id))
    if found and found.revision and unchanged(request, found.revision):
        return cast("Response[Any]", empty(304, tag=found.revision))
    return read(request, found)


def read(_: Call, found: tasks.Found | None) -> Response[Any]:
    """The answer that a line becomes."""
    line = signed_in(found)
    if line.revision is None:
        raise Problem(404)
    return Json(line.line.encode(), 200, {"ETag": f'"{line.revision}"'})


async def update_task(request: Call, id: FromPath[str], data: JSONBody[TaskPatch]) -> Response[Task]:
    """Change a task."""
    changes = data.changes()
    outcome = await tasks.update(request.db, request.caller, number(id), request.if_match(), changes)
    return shown(request, outcome)


def shown(_: Call, outcome: tasks.Outcome | None) -> Response[Task]:
    """The answer that a task becomes."""
    task = _there(outcome)
    return answer(task, tag=task.revision)


async def toggle_task(request: Call, id: FromPath[str]) -> Response[Task]:
    """Complete a task, or make a completed one pending."""
    return shown(request, await tasks.toggle(request.db, request.caller, number(id), request.if_match()))


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
    return shown(request, await tasks.restore(request.db, request.caller, number(id), request.if_match()))


def _known(request: Call) -> tasks.Version:
    """The version of this list or statistic that the client has, or else that is remembered here."""
    if known := cursors.known(request):
        return tasks.Version(*known[1:])
    kept = request.memory.find(request)
    return kept.version if kept else tasks.Version()


def _unchanged(request: Call) -> Response[Any]:
    """The answer where that version holds."""
    if (kept := request.memory.still(request)) is not None:
        return kept
    known = cursors.known(request)
    return empty(304, tag=known[0] if known else None)


def _kept(request: Call, revision: int, until: int | None, answered: Response[Any]) -> Response[Any]:
    version = tasks.Version(revision) if until is None else tasks.Version(revision, until)
    request.memory.keep(request, version, answered)
    return answered


def _there(outcome: tasks.Outcome | None) -> Task:
    found = signed_in(outcome)
    _decided(found.verdict)
    return cast("Task", found.task)


def _decided(verdict: tasks.Verdict) -> None:
    if verdict == "absent":
        raise Problem(404)
    if verdict == "moved":
        raise Problem(412)
