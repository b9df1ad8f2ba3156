"""What is sent: each function makes the shots of one scenario. The same arguments give the same shots.

All but `delete` may be sent again and again; `delete` takes its tasks off `stack.spare` and goes with `once=True`.
"""

import json
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, cycle, islice
from random import Random
from typing import ClassVar

from benchmarks.load import Shot
from benchmarks.stack import Stack

API = "/api/v1"
TASKS = f"{API}/tasks"
MANY = 5000
ZIPF = 1.0
REFRESHING = 100  # sessions that take turns in refreshing
WORDS = "report invoice budget passport garden kitchen bread coffee laptop server contract lesson".split()
FILTERS = (
    *[""] * 8,
    "&status=pending",
    "&status=pending&priority=high",
    "&completed=false",
    "&sort=due_date",
    "&overdue=true",
    "&q=report",
)
HEAD = "{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: roundtrip-bench\r\n"


def request(stack: Stack, method: str, path: str, user: str | None = None, body: object = None) -> bytes:
    """A request as it goes on the wire."""
    head = HEAD.format(method=method, path=path, host=f"{stack.host}:{stack.port}")
    if user is not None:
        head += f"Authorization: Bearer {stack.tokens[user]}\r\n"
    if body is None:
        return (head + "\r\n").encode()
    text = json.dumps(body, separators=(",", ":")).encode()
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text


def single(stack: Stack, n: int = MANY, *, users: Sequence[str] | None = None) -> list[Shot]:
    """One task by its id; `users`: only theirs."""
    return [Shot(request(stack, "GET", f"{TASKS}/{id}", user)) for user, id in _tasks(stack, n, users)]


def list_page(
    stack: Stack, n: int = MANY, *, limit: int = 100, query: str = "", users: Sequence[str] | None = None
) -> list[Shot]:
    """A page of a list; `query` has further parameters, each with its &."""
    path = f"{TASKS}?limit={limit}{query}"
    return [Shot(request(stack, "GET", path, user)) for user in _users(stack, n, users)]


def index_scan(stack: Stack, n: int = MANY, *, users: Sequence[str] | None = None) -> list[Shot]:
    """The oldest tasks: an index read from its other end."""
    return list_page(stack, n, query="&sort=created_at", users=users)


def search(stack: Stack, n: int = MANY, *, users: Sequence[str] | None = None) -> list[Shot]:
    """A page of what has a word."""
    asked = zip(_users(stack, n, users), cycle(WORDS), strict=False)
    return [Shot(request(stack, "GET", f"{TASKS}?q={word}", user)) for user, word in asked]


def statistics(stack: Stack, n: int = MANY, *, users: Sequence[str] | None = None) -> list[Shot]:
    """Counts over all tasks of a user."""
    return [Shot(request(stack, "GET", f"{TASKS}/stats", user)) for user in _users(stack, n, users)]


def insert(stack: Stack, n: int = MANY, *, users: Sequence[str] | None = None) -> list[Shot]:
    """A new task."""
    return [
        Shot(request(stack, "POST", TASKS, user, _draft(number)), 201)
        for number, user in enumerate(_users(stack, n, users))
    ]


def update(stack: Stack, n: int = MANY, *, users: Sequence[str] | None = None) -> list[Shot]:
    """Another title; each task twice with two titles, so that every one of them changes something."""
    tasks = [*_tasks(stack, (n + 1) // 2, users)]
    return [
        Shot(request(stack, "PATCH", f"{TASKS}/{id}", user, {"title": f"{title} {id}"}))
        for title in ("Before", "After")
        for user, id in tasks
    ][:n]


def toggle(stack: Stack, n: int = MANY, *, users: Sequence[str] | None = None) -> list[Shot]:
    """Done, or not done after all."""
    return [
        Shot(request(stack, "POST", f"{TASKS}/{id}/toggle", user)) for user, id in _tasks(stack, n, users)
    ]


def delete(stack: Stack, n: int = MANY, *, users: Sequence[str] | None = None) -> list[Shot]:
    """Into the trash, each task once; fewer shots where there are not so many to spare."""
    return [
        Shot(request(stack, "DELETE", f"{TASKS}/{id}", user), 204) for user, id in spared(stack, n, users)
    ]


def refresh(stack: Stack, n: int = REFRESHING) -> list[Shot]:
    """A new pair of tokens; the sessions of so many users, each a chain of its own."""
    for user in islice(stack.refresh_tokens, n):
        if user not in stack.refreshes:
            body = {"refresh_token": stack.refresh_tokens[user]}
            shot = Shot(request(stack, "POST", f"{API}/auth/refresh", body=body), chain=user)
            stack.refreshes[user] = shot
    return [*islice(stack.refreshes.values(), n)]


def mix(stack: Stack, n: int = 10_000, *, seed: int = 1) -> list[Shot]:
    """The traffic of a todo service: 65 % single reads, 23 % lists, 3 % statistics, 3 % writes, the rest token refresh.

    Zipf over users. It may be sent again and again: titles alternate, and what goes to the trash comes back.
    """
    return [*_Mix(stack, n, seed).shots()]


class _Mix:
    PARTS: ClassVar = {
        "single": 650,
        "page": 230,
        "statistics": 30,
        "insert": 10,
        "toggle": 10,
        "update": 8,
        "bin": 2,
        "refresh": 60,
    }

    def __init__(self, stack: Stack, n: int, seed: int) -> None:
        self.stack = stack
        self.random = Random(seed)  # noqa: S311 (traffic, no secrets)
        self.kinds = self.random.choices([*self.PARTS], [*self.PARTS.values()], k=n)
        self.tasks: dict[str, list[int]] = {}
        for user, id in stack.task_ids:
            self.tasks.setdefault(user, []).append(id)
        self.ranked = [user for user in stack.users if user in self.tasks]
        self.random.shuffle(self.ranked)  # who asks most is not who has most
        self.weights = [*accumulate(1 / rank**ZIPF for rank in range(1, len(self.ranked) + 1))]
        self.renewals = cycle(refresh(stack))
        self.updated = [self._task() for _ in range(max(1, self.kinds.count("update") // 2))]
        self.binned = spared(stack, max(1, self.kinds.count("bin") // 2), None)
        self.count: Counter[str] = Counter()

    def shots(self) -> Iterator[Shot]:
        for kind in self.kinds:
            number = self.count[kind]
            self.count[kind] += 1
            yield getattr(self, kind)(number)

    def single(self, _: int) -> Shot:
        user, id = self._task()
        return Shot(request(self.stack, "GET", f"{TASKS}/{id}", user))

    def page(self, _: int) -> Shot:
        query = f"?limit={self.random.randint(20, 100)}{self.random.choice(FILTERS)}"
        return Shot(request(self.stack, "GET", TASKS + query, self._user()))

    def statistics(self, _: int) -> Shot:
        return Shot(request(self.stack, "GET", f"{TASKS}/stats", self._user()))

    def insert(self, number: int) -> Shot:
        return Shot(request(self.stack, "POST", TASKS, self._user(), _draft(number)), 201)

    def toggle(self, _: int) -> Shot:
        user, id = self._task()
        return Shot(request(self.stack, "POST", f"{TASKS}/{id}/toggle", user))

    def update(self, number: int) -> Shot:
        user, id = self.updated[number % len(self.updated)]
        return Shot(request(self.stack, "PATCH", f"{TASKS}/{id}", user, {"title": f"Title {number}"}))

    def bin(self, number: int) -> Shot:
        """Every other time a task comes back, and another goes: half of them lie there at any time."""
        pair, goes = divmod(number, 2)
        user, id = self.binned[(pair + goes * len(self.binned) // 2) % len(self.binned)]
        path = f"{TASKS}/{id}"
        if goes:
            return Shot(request(self.stack, "DELETE", path, user), 204)
        return Shot(request(self.stack, "POST", f"{path}/restore", user))

    def refresh(self, _: int) -> Shot:
        return next(self.renewals)

    def _user(self) -> str:
        return self.random.choices(self.ranked, cum_weights=self.weights)[0]

    def _task(self) -> tuple[str, int]:
        user = self._user()
        return user, self.random.choice(self.tasks[user])


def _tasks(stack: Stack, n: int, users: Sequence[str] | None) -> Iterator[tuple[str, int]]:
    """So many tasks that stay, again from the first where there are fewer."""
    wanted = None if users is None else set(users)
    return islice(cycle(task for task in stack.task_ids if wanted is None or task[0] in wanted), n)


def _users(stack: Stack, n: int, users: Sequence[str] | None) -> Iterator[str]:
    return islice(cycle(stack.users if users is None else users), n)


def spared(stack: Stack, n: int, users: Sequence[str] | None) -> list[tuple[str, int]]:
    """Take so many tasks, or as many as there are, off those that may be deleted."""
    wanted = None if users is None else set(users)
    taken = [*islice((task for task in stack.spare if wanted is None or task[0] in wanted), n)]
    gone = set(taken)
    stack.spare = deque(task for task in stack.spare if task not in gone)
    return taken


def _draft(number: int) -> dict[str, object]:
    word = WORDS[number % len(WORDS)]
    return {"title": f"Measure the {word}", "description": f"Number {number}", "priority": 1 + number % 5}


ALL: dict[str, Callable[..., list[Shot]]] = {
    "single": single,
    "list": list_page,
    "index_scan": index_scan,
    "search": search,
    "statistics": statistics,
    "insert": insert,
    "update": update,
    "toggle": toggle,
    "delete": delete,
    "refresh": refresh,
    "mix": mix,
}
