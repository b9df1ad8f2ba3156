"""Batches of tasks: many operations in one request, in order, all or nothing."""

from collections.abc import Sequence
from typing import Annotated, TypeAlias

import msgspec
from litestar import Response
from litestar.params import JSONBody
from msgspec import UNSET, Meta, UnsetType
from msgspec.structs import asdict

from db import batch
from db.task import Task
from service import idempotency
from service.calls import MAX_ID, Call, answer, signed_in
from service.errors import Fault, Problem
from service.task import TaskCreate, TaskPatch

NO_REVISION = -1  # which no task ever has

Id: TypeAlias = Annotated[int, Meta(extra_json_schema={"minimum": 1, "maximum": MAX_ID})]
IfRevision: TypeAlias = Annotated[
    int,
    Meta(description="Only if the task has this revision before the batch", extra_json_schema={"minimum": 1}),
]


class CreateOperation(msgspec.Struct, tag_field="op", tag="create", forbid_unknown_fields=True):
    """A new task."""

    task: TaskCreate

    def operation(self, n: int) -> batch.Operation:
        return batch.Operation(n, "create", **asdict(self.task.draft()))


class _OnTask(msgspec.Struct, tag_field="op", forbid_unknown_fields=True, kw_only=True):
    """What is done to a task that is there."""

    id: Id
    if_revision: IfRevision | UnsetType = UNSET

    def operation(self, n: int) -> batch.Operation:
        """What the statement is sent: no id where none can be meant, a revision that fits or that none has."""
        revision = None if self.if_revision is UNSET else self.if_revision
        return batch.Operation(
            n,
            self.__struct_config__.tag,  # type: ignore[arg-type]
            self.id if 1 <= self.id <= MAX_ID else None,
            revision if revision is None or 0 <= revision <= MAX_ID else NO_REVISION,
        )


class UpdateOperation(_OnTask, tag="update", kw_only=True):
    """A merge patch of a live task."""

    changes: TaskPatch

    def operation(self, n: int) -> batch.Operation:
        given = {name: value for name, value in asdict(self.changes.changes()).items() if value is not UNSET}
        given |= {f"set_{name}": name in given for name in ("description", "due_date")}
        return msgspec.structs.replace(super().operation(n), **given)


class ToggleOperation(_OnTask, tag="toggle"):
    """Completed to pending, anything else to completed."""


class DeleteOperation(_OnTask, tag="delete"):
    """A live task into the trash."""


class RestoreOperation(_OnTask, tag="restore"):
    """Back from the trash; a live task stays as it is."""


Operation: TypeAlias = (
    CreateOperation | UpdateOperation | ToggleOperation | DeleteOperation | RestoreOperation
)


class Batch(msgspec.Struct, forbid_unknown_fields=True):
    """Operations that are done in this order, all of them or none."""

    operations: Annotated[list[Operation], Meta(min_length=1, max_length=500)]


class OperationResult(msgspec.Struct):
    """An operation that was done, and its task as it was just after it."""

    op: batch.Op
    id: int
    task: Task


class BatchResult(msgspec.Struct):
    """The user's revision after the batch, and what became of each operation."""

    revision: int
    results: Sequence[OperationResult]


async def apply_batch(request: Call, data: JSONBody[Batch]) -> Response[BatchResult]:
    """Create, change, toggle, delete and restore up to 500 tasks, in order, all or nothing."""
    operations = [item.operation(n) for n, item in enumerate(data.operations)]
    if key := await idempotency.key(request):
        kept, failed = signed_in(await batch.apply_once(request.db, request.caller, key, operations))
        idempotency.check(key, kept)
        if kept.result is None and failed:
            raise _refusal(failed)
        result, status, headers = idempotency.read(kept, BatchResult)
        return answer(result, status, headers=headers)
    done = await batch.apply(request.db, request.caller, operations)
    if isinstance(done, batch.Failed):
        raise _refusal(done)
    applied = signed_in(done)
    pairs = zip(operations, applied.tasks, strict=True)
    return answer(BatchResult(applied.revision, [OperationResult(o.op, task.id, task) for o, task in pairs]))


def _refusal(failed: batch.Failed) -> Problem:
    operation = f"/operations/{failed.n}"
    if failed.verdict == "absent":
        return Problem(404, errors=[Fault("is no task of yours at that point", pointer=f"{operation}/id")])
    return Problem(
        412,
        "A task has changed since the revision that its operation names; read it again.",
        errors=[Fault("is not the revision of the task", pointer=f"{operation}/if_revision")],
    )
