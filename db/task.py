"""A task: what rows become, and what new tasks and changes are made of."""

from datetime import datetime
from typing import Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from db.types import Told

Status: TypeAlias = Literal["pending", "in_progress", "completed"]
Label: TypeAlias = Literal["lowest", "low", "medium", "high", "highest"]


class Task(msgspec.Struct, gc=False):
    """A task as its statements give it and as the API shows it; times in UTC."""

    id: int
    user_id: str
    title: str
    description: str | None
    status: Status
    completed: bool
    priority: int
    priority_label: Label
    due_date: Told | None
    created_at: Told
    updated_at: Told
    completed_at: Told | None
    deleted_at: Told | None
    revision: int


class Draft(msgspec.Struct):
    """What a new task is made of."""

    title: str
    description: str | None
    status: Status
    priority: int
    due_date: datetime | None


class Changes(msgspec.Struct):
    """A merge patch: what is unset stays. `reopen` makes a completed task pending and leaves another as it is."""

    title: str | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    status: Status | UnsetType = UNSET
    priority: int | UnsetType = UNSET
    due_date: datetime | UnsetType | None = UNSET
    reopen: bool = False
