"""What is sent is what the service takes, and what is called does what it says."""

import uuid
from collections import Counter, deque

import httpx
import pytest

from benchmarks import direct, scenarios
from benchmarks.load import Shot
from benchmarks.stack import Stack
from benchmarks.tokens import sign_in
from db import seed
from db.caller import Caller
from db.pool import Database, PoolOptions
from db.statements import Statement
from db.url import parse
from service.settings import Settings
from service.tokens import Tokens

TASKS = 16  # of each
TASKS_OF = Statement(
    "test.tasks", "select user_id, id from tasks where user_id = any($1) order by id", "read", (), (), "", ""
)


@pytest.fixture
async def stack(db: Database, database_url: str, settings: Settings) -> Stack:
    """New users, signed in as those of the embedded database are."""
    assert settings.secret_key is not None
    users = [f"bench-{uuid.uuid4().hex}" for _ in range(3)]
    stack = Stack("test", 80, database_url=database_url, users=users, large=users[:1])
    for user in users:
        await seed.user(db, user, f"{user}@example.com", user, "no password", False)
        signed = sign_in(settings.secret_key, user)
        await seed.session(db, signed.sid, user, signed.refresh_hash)
        stack.tokens[user], stack.refresh_tokens[user] = signed.access, signed.refresh
        stack.callers[user] = Caller(user, signed.sid)
        for number in range(TASKS):
            await seed.task(db, user, f"Task {number}", "To be asked for", False, 3, None)
    rows = await db.all(TASKS_OF, users)
    stack.task_ids = [(row[0], row[1]) for row in rows[::2]]
    stack.spare = deque((row[0], row[1]) for row in rows[1::2])
    return stack


async def send(client: httpx.AsyncClient, shot: Shot) -> httpx.Response:
    """As it is on the wire."""
    head, _, body = shot.request.partition(b"\r\n\r\n")
    line, *headers = head.decode().split("\r\n")
    method, path, version = line.split(" ")
    assert version == "HTTP/1.1"
    pairs = [(name, value) for name, _, value in (header.partition(": ") for header in headers)]
    assert dict(pairs).get("Content-Length", "0") == str(len(body))
    return await client.request(method, path, headers=pairs, content=body)


@pytest.mark.parametrize("name", [name for name in scenarios.ALL if name != "mix"])
async def test_every_request_gets_the_status_that_is_expected(
    name: str, stack: Stack, client: httpx.AsyncClient
) -> None:
    shots = scenarios.ALL[name](stack, 6)
    assert len(shots) in (3, 6)  # a refresh for each user, where there are no more
    for shot in shots:
        answer = await send(client, shot)
        assert answer.status_code == shot.expect, answer.text


async def test_the_mix_may_be_sent_again(stack: Stack, client: httpx.AsyncClient) -> None:
    shots = [shot for shot in scenarios.mix(stack, 1500) if shot.chain is None]
    writing = [shot for shot in shots if not shot.request.startswith(b"GET")]
    for shot in writing * 2 + shots[:50]:
        answer = await send(client, shot)
        assert answer.status_code == shot.expect, (shot.request, answer.text)


def test_the_mix_is_what_it_says_and_always_the_same(stack: Stack) -> None:
    twice = [[shot.request for shot in scenarios.mix(fresh(stack), 5000)] for _ in range(2)]
    assert twice[0] == twice[1]
    methods = Counter(request.split()[0] for request in twice[0])
    refreshes = sum(b"/auth/refresh" in request for request in twice[0])
    writes = 5000 - methods[b"GET"] - refreshes
    assert 0.90 < methods[b"GET"] / 5000 < 0.93
    assert 0.02 < writes / 5000 < 0.04
    assert 0.05 < refreshes / 5000 < 0.08
    assert {b"GET", b"POST", b"PATCH", b"DELETE"} == set(methods)
    asking = Counter(token for token in stack.tokens.values() for r in twice[0] if token.encode() in r)
    first, second, third = (count for _, count in asking.most_common(3))
    assert first > 1.5 * second > 1.5 * third  # Zipf: 1, 1/2, 1/3


def fresh(stack: Stack) -> Stack:
    """The same, with nothing taken off it."""
    return Stack(
        "test",
        80,
        users=stack.users,
        tokens=stack.tokens,
        refresh_tokens=stack.refresh_tokens,
        task_ids=stack.task_ids,
        spare=deque(stack.spare),
    )


def test_what_is_deleted_is_deleted_once(stack: Stack) -> None:
    shots = scenarios.delete(stack, 1000)
    assert len({shot.request for shot in shots}) == len(shots) == TASKS * len(stack.users) // 2
    assert scenarios.delete(stack, 1) == []


async def test_titles_change_with_every_update(stack: Stack, client: httpx.AsyncClient) -> None:
    revisions = [(await send(client, shot)).json()["revision"] for shot in scenarios.update(stack, 8) * 2]
    assert len(set(revisions)) == len(revisions) == 16


@pytest.mark.parametrize("name", [*direct.SCENARIOS])
async def test_every_call_of_the_database_does_what_it_should(name: str, stack: Stack) -> None:
    assert stack.database_url is not None
    db = Database(parse(stack.database_url), PoolOptions(size=4), observe=direct.observe)
    await db.open()
    try:
        calls = direct.calls(stack, name, 10)
        found = await direct.measure(db, calls, rate=200, seconds=0.02, warmup=0, burst=2)
    finally:
        await db.close()
    assert found.errors == {}
    assert found.took
    assert min(found.took) > 0


def test_tokens_are_those_of_the_service() -> None:
    secret = "another secret for tests, of 32 bytes"
    signed = sign_in(secret, "somebody")
    tokens = Tokens(secret, ttl=900)
    assert tokens.verify(signed.access) == Caller("somebody", signed.sid)
    refresh = tokens.read_refresh(signed.refresh)
    assert (refresh.sid, refresh.hash) == (signed.sid, signed.refresh_hash)
