"""Batches against a model of them: any operations, repeated tasks, wrong ones among them, with a key and without."""

import re
from collections.abc import Sequence
from typing import Any

import httpx
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import sign_up
from tests.service.test_batch import NOBODYS, Batches
from tests.service.test_properties import SHARED, contradicts, patched, patches
from tests.service.test_tasks import PATH

Operations = Sequence[Any]


class Model:
    """A user's tasks as the contract tells of them; operations name them by their place (`at`)."""

    def __init__(self) -> None:
        self.tasks: list[dict[str, Any]] = []
        self.revision = 0

    def apply(self, operations: Operations) -> list[dict[str, Any]] | tuple[int, int]:
        """The task after each operation, or the status and the place of the first that fails."""
        before = [dict(task) for task in self.tasks]
        revision = self.revision
        after = []
        for n, operation in enumerate(operations):
            status = self._step(operation, before)
            if status != 200:
                self.tasks, self.revision = before, revision
                return status, n
            task = self.tasks[-1 if operation["op"] == "create" else operation["at"]]
            after.append(dict(task))
        return after

    def _step(self, operation: dict[str, Any], before: Operations) -> int:
        op = operation["op"]
        if op == "create":
            blank = {"title": "", "description": None, "status": "pending", "priority": 3, "due_date": None}
            self._put(len(self.tasks), patched(blank, operation["task"]) | {"deleted": False})
            return 200
        if operation["at"] >= len(before):
            return 404
        task = self.tasks[operation["at"]]
        if task["deleted"] and op != "restore":
            return 404
        if operation["if"] is not None and operation["if"] != before[operation["at"]]["revision"]:
            return 412
        if op == "update":
            new = patched(task, operation["changes"])
        elif op == "toggle":
            new = task | {"status": "pending" if task["status"] == "completed" else "completed"}
        else:
            new = task | {"deleted": op == "delete"}
        self._put(operation["at"], new)
        return 200

    def _put(self, at: int, new: dict[str, Any]) -> None:
        if at == len(self.tasks):
            self.tasks.append({})
        if modelled(new) != modelled(self.tasks[at]):
            self.revision += 1
            self.tasks[at] = new | {"revision": self.revision}


def modelled(task: dict[str, Any]) -> dict[str, Any]:
    """What the model knows of a task, without its revision."""
    names = ("title", "description", "status", "priority", "due_date", "deleted")
    known = {name: task[name] for name in names if name in task}
    return known | {"due_date": moment(known["due_date"])} if known else known


def moment(time: str | None) -> str | None:
    return time and re.sub(r"\.?0*Z$" if "." in time else "Z$", "Z", time)


places = st.integers(0, 4)
conditions = st.sampled_from([None, None, None, "its own", "another"])
operations = st.one_of(
    st.fixed_dictionaries(
        {"op": st.just("create"), "task": patches.filter(lambda p: "title" in p and not contradicts(p))}
    ),
    st.fixed_dictionaries(
        {
            "op": st.just("update"),
            "at": places,
            "if": conditions,
            "changes": patches.filter(lambda p: not contradicts(p)),
        }
    ),
    st.fixed_dictionaries(
        {"op": st.sampled_from(["toggle", "delete", "restore"]), "at": places, "if": conditions}
    ),
)


def pinned(operation: dict[str, Any], model: Model) -> dict[str, Any]:
    """An operation with the revision that it asks for."""
    if operation["op"] == "create":
        return operation
    known = model.tasks[operation["at"]]["revision"] if operation["at"] < len(model.tasks) else 1
    return operation | {"if": {"its own": known, "another": known + 1, None: None}[operation["if"]]}


def sent(operation: dict[str, Any], ids: Sequence[int]) -> dict[str, Any]:
    """An operation as clients write it."""
    if operation["op"] == "create":
        return operation
    told = {name: value for name, value in operation.items() if name not in ("at", "if")}
    condition = {} if operation["if"] is None else {"if_revision": operation["if"]}
    return told | condition | {"id": ids[operation["at"]] if operation["at"] < len(ids) else NOBODYS}


@SHARED
@given(
    first=st.integers(0, 4),
    batches=st.lists(st.lists(operations, min_size=1, max_size=10), min_size=1, max_size=5),
    keyed=st.booleans(),
)
async def test_batches_do_what_the_model_does(
    client: httpx.AsyncClient, first: int, batches: list[list[dict[str, Any]]], *, keyed: bool
) -> None:
    user = await sign_up(client)
    batch, model, ids = Batches(client, user), Model(), list[int]()
    start: list[dict[str, Any]] = [{"op": "create", "task": {"title": f"t{n}"}} for n in range(first)]
    for number, wanted in enumerate([start, *batches] if start else batches):
        asked = [pinned(operation, model) for operation in wanted]
        answer = await batch(*(sent(o, ids) for o in asked), key=f"k{number}" if keyed else None)
        outcome = model.apply(asked)
        if isinstance(outcome, tuple):
            assert answer.status_code == outcome[0], answer.text
            assert answer.json()["errors"][0]["pointer"].startswith(f"/operations/{outcome[1]}/")
            continue
        assert answer.status_code == 200, answer.text
        results = answer.json()["results"]
        assert [seen(result["task"]) for result in results] == [expected(task) for task in outcome]
        assert answer.json()["revision"] == model.revision
        ids += [result["id"] for result in results if result["op"] == "create"]
    stored: dict[int, dict[str, Any]] = {}
    for where in ("", "&deleted=true"):
        page = (await client.get(f"{PATH}?limit=500{where}", headers=user.headers)).json()
        assert page["revision"] == model.revision
        stored |= {task["id"]: seen(task) for task in page["items"]}
    assert [stored[id] for id in ids] == [expected(task) for task in model.tasks]
    assert len(stored) == len(ids)


def seen(task: dict[str, Any]) -> dict[str, Any]:
    """A task of an answer as the model has it."""
    assert (task["completed_at"] is not None) == task["completed"] == (task["status"] == "completed")
    assert task["created_at"] <= task["updated_at"]
    return modelled(task | {"deleted": task["deleted_at"] is not None}) | {"revision": task["revision"]}


def expected(task: dict[str, Any]) -> dict[str, Any]:
    return modelled(task) | {"revision": task["revision"]}
