"""Properties: a merge patch against a model of it, and cursors against a list that changes under the walk."""

import asyncio
import re
from typing import Any

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Account, sign_up

PATH = "/api/v1/tasks"
LABELS = ["lowest", "low", "medium", "high", "highest"]
SHARED = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)

texts = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20)
times = st.datetimes().map(lambda time: time.isoformat() + "Z")
patches = st.fixed_dictionaries(
    {},
    optional={
        "title": texts.filter(lambda text: text.strip()),
        "description": st.none() | texts,
        "status": st.sampled_from(["pending", "in_progress", "completed", "Completed"]),
        "completed": st.booleans(),
        "priority": st.integers(1, 5) | st.sampled_from(LABELS),
        "due_date": st.none() | times,
    },
)


def contradicts(patch: dict[str, Any]) -> bool:
    both = "status" in patch and "completed" in patch
    return both and (patch["status"].lower() == "completed") != patch["completed"]


def patched(task: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """What a merge patch leaves, by the contract; times of the change left out."""
    new = dict(task)
    for name in ("description", "due_date"):
        if name in patch:
            new[name] = patch[name]
    if "title" in patch:
        new["title"] = patch["title"].strip()
    if "status" in patch:
        new["status"] = patch["status"].lower()
    elif patch.get("completed") is True:
        new["status"] = "completed"
    elif patch.get("completed") is False and task["status"] == "completed":
        new["status"] = "pending"
    if "priority" in patch:
        given = patch["priority"]
        new["priority"] = given if isinstance(given, int) else LABELS.index(given) + 1
    new["priority_label"] = LABELS[new["priority"] - 1]
    new["completed"] = new["status"] == "completed"
    return new


def settled(task: dict[str, Any]) -> dict[str, Any]:
    """A task without what the clock decides, and its due date without the noughts of its fraction."""
    kept = {
        name: value for name, value in task.items() if name not in ("updated_at", "completed_at", "revision")
    }
    if kept["due_date"]:
        kept["due_date"] = re.sub(r"\.?0*Z$" if "." in kept["due_date"] else "Z$", "Z", kept["due_date"])
    return kept


@SHARED
@given(sequence=st.lists(patches.filter(lambda patch: not contradicts(patch)), min_size=1, max_size=6))
async def test_patches_do_what_the_model_does(
    client: httpx.AsyncClient, user: Account, sequence: list[dict[str, Any]]
) -> None:
    task = (await client.post(PATH, json={"title": "start"}, headers=user.headers)).json()
    for patch in sequence:
        answer = await client.patch(f"{PATH}/{task['id']}", json=patch, headers=user.headers)
        assert answer.status_code == 200, answer.text
        new = answer.json()
        assert settled(new) == settled(patched(task, patch))
        changed = settled(new) != settled(task)
        assert new["revision"] == task["revision"] + changed
        assert (new["updated_at"] == task["updated_at"]) == (not changed)
        assert (new["completed_at"] is not None) == new["completed"]
        if new["completed"] and task["completed"]:
            assert new["completed_at"] == task["completed_at"]
        assert (await client.get(f"{PATH}/{task['id']}", headers=user.headers)).json() == new
        task = new


@SHARED
@given(patch=patches.filter(contradicts))
async def test_contradictions_are_refused(
    client: httpx.AsyncClient, user: Account, patch: dict[str, Any]
) -> None:
    answer = await client.post(PATH, json={"title": "x"} | patch, headers=user.headers)
    assert (answer.status_code, answer.json()["errors"][-1]["pointer"]) == (422, "/completed")


steps = st.lists(st.sampled_from(["page", "insert", "delete", "change"]), max_size=30)


@settings(SHARED, max_examples=25)
@given(count=st.integers(0, 12), limit=st.integers(1, 5), steps=steps)
async def test_a_walk_neither_repeats_nor_skips(
    client: httpx.AsyncClient, count: int, limit: int, steps: list[str]
) -> None:
    user = await sign_up(client)
    made = await asyncio.gather(
        *(client.post(PATH, json={"title": f"t{n}"}, headers=user.headers) for n in range(count))
    )
    there = [answer.json()["id"] for answer in made]
    stayed = set(there)
    seen: list[int] = []
    url: str | None = f"{PATH}?limit={limit}"
    plan = iter([*steps, *["page"] * (count + 30)])
    while url:
        step = next(plan)
        if step == "page":
            answer = await client.get(url, headers=user.headers)
            assert len(answer.json()["items"]) <= limit
            seen += [task["id"] for task in answer.json()["items"]]
            url = answer.links["next"]["url"] if "next" in answer.links else None
        elif step == "insert":
            await client.post(PATH, json={"title": "late"}, headers=user.headers)
        elif there and step == "delete":
            gone = there.pop()
            stayed.discard(gone)
            await client.delete(f"{PATH}/{gone}", headers=user.headers)
        elif there:
            await client.patch(f"{PATH}/{there[0]}", json={"description": "changed"}, headers=user.headers)
    assert len(seen) == len(set(seen))
    assert stayed <= set(seen)
