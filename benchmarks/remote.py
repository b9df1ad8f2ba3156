"""A deployment by its URL: a few accounts of our own there, their tasks, and nothing of either left in the end."""

import asyncio
import base64
import http.client
import ipaddress
import json
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from benchmarks.data import Progress, Sizes
from benchmarks.load import LoadError
from benchmarks.stack import Stack
from db.caller import Caller

API = "/api/v1"
TASKS = (10_000, 10_000, 500, 500, 500)  # of each account
BATCH = 500
RESERVED = 5  # one task in so many may be deleted
RENEW_AFTER = 300.0  # seconds
PATIENCE = 60.0


class Place(NamedTuple):
    """Where a deployment is."""

    host: str
    port: int
    tls: bool

    @property
    def local(self) -> bool:
        """Whether it is on this machine."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


@dataclass
class Account:
    """One of ours."""

    email: str
    password: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    id: str = ""


@dataclass
class Borrowed(Stack):
    """A stack that is not ours; access tokens end there, so they are renewed."""

    accounts: list[Account] = field(default_factory=list)
    renewed: float = 0.0

    async def renew(self) -> None:
        """Sign in again, unless that was a moment ago."""
        if time.monotonic() - self.renewed > RENEW_AFTER:
            for account in self.accounts:
                credentials = {"email": account.email, "password": account.password}
                _keep(self, account, await ask(self.place, "POST", "/auth/login", credentials))
            self.renewed = time.monotonic()
            self.refreshes.clear()

    @property
    def place(self) -> Place:
        return Place(self.host, self.port, self.tls)


def place(url: str) -> Place:
    """Read a URL; raises `LoadError`."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
        raise LoadError(f"{url} is not such as https://todo.example.com")
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise LoadError(f"{url}: {error}") from None
    return Place(parts.hostname, port, parts.scheme == "https")


def announcement(url: str) -> str:
    """What will be sent there."""
    return (
        f"This registers {len(TASKS)} accounts (bench-...@example.com) at {url}, makes {sum(TASKS):,} tasks of theirs by "
        f"POST {API}/tasks/batch, sends the load that the progress lines name, writes included, and deletes the accounts "
        "with all that is theirs in the end. Nobody else's data is read or written, but the load is real."
    )


@asynccontextmanager
async def borrowed(url: str, progress: Progress) -> AsyncIterator[Stack]:
    """Accounts with tasks on a deployment; raises `LoadError` where it will not have them."""
    where = place(url)
    stack = Borrowed(*where, sizes=Sizes(len(TASKS), sum(TASKS), TASKS.count(max(TASKS)), max(TASKS)))
    stack.renewed = time.monotonic()
    try:
        for number, count in enumerate(TASKS, start=1):
            progress(f"Account {number} of {len(TASKS)} at {url}: {count:,} tasks")
            await _register(stack, count)
        yield stack
    finally:
        for account in stack.accounts:
            await _remove(stack, account, progress)


async def ask(where: Place, method: str, path: str, body: object = None, token: str | None = None) -> Any:
    """One request of the API, its answer decoded; follows no redirects. Raises `LoadError`."""
    return await asyncio.to_thread(_ask, where, method, f"{API}{path}", body, token)


def _ask(where: Place, method: str, path: str, body: object, token: str | None) -> Any:
    kind = http.client.HTTPSConnection if where.tls else http.client.HTTPConnection
    connection = kind(where.host, where.port, timeout=PATIENCE)
    headers = {"User-Agent": "roundtrip-bench", "Content-Type": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    try:
        connection.request(method, path, json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise LoadError(f"{method} {path}: {error}") from error
    finally:
        connection.close()
    if not 200 <= answer.status < 300:  # noqa: PLR2004
        raise LoadError(f"{method} {path}: {answer.status} {text[:300].decode(errors='replace')}")
    return json.loads(text) if text else None


async def _register(stack: Borrowed, count: int) -> None:
    account = Account(f"bench-{secrets.token_hex(8)}@example.com")
    credentials = {"email": account.email, "password": account.password}
    told = await ask(stack.place, "POST", "/auth/register", credentials)
    stack.accounts.append(account)
    _keep(stack, account, told)
    stack.users.append(account.id)
    if count == max(TASKS):
        stack.large.append(account.id)
    for at in range(0, count, BATCH):
        made = await _batch(stack, account, at, min(BATCH, count - at))
        stack.spare.extend((account.id, id) for id in made if id % RESERVED == 0)
        stack.task_ids.extend((account.id, id) for id in made if id % RESERVED)


async def _batch(stack: Borrowed, account: Account, at: int, count: int) -> list[int]:
    operations = [
        {
            "op": "create",
            "task": {
                "title": f"Measure {number}",
                "description": "Made by a load test, and deleted after it.",
                "priority": 1 + number % 5,
                "status": ("pending", "in_progress", "completed")[number % 3],
            },
        }
        for number in range(at, at + count)
    ]
    token = stack.tokens[account.id]
    told = await ask(stack.place, "POST", "/tasks/batch", {"operations": operations}, token)
    return [int(result["id"]) for result in told["results"]]


def _keep(stack: Borrowed, account: Account, told: Any) -> None:
    account.id = told["user"]["id"]
    stack.tokens[account.id] = told["access_token"]
    stack.refresh_tokens[account.id] = told["refresh_token"]
    stack.callers[account.id] = Caller(account.id, _claims(told["access_token"])["sid"])


def _claims(token: str) -> Any:
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


async def _remove(stack: Borrowed, account: Account, progress: Progress) -> None:
    credentials = {"email": account.email, "password": account.password}
    try:
        told = await ask(stack.place, "POST", "/auth/login", credentials)
        await ask(stack.place, "DELETE", "/users/me", {"password": account.password}, told["access_token"])
    except LoadError as error:
        progress(f"The account {account.email} (password {account.password}) could not be deleted: {error}")
