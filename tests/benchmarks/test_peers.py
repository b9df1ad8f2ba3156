"""The peers: the same statements, the same answers, everybody in turn, and a reason for whoever is absent."""

import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from msgspec import Struct

from benchmarks import peers
from benchmarks.peers import answers, pgbench
from benchmarks.peers.answers import Differs, Subject, difference, same
from benchmarks.peers.programs import PROGRAMS, Absent, Made, Program, said
from benchmarks.peers.serving import serving
from benchmarks.results import Generator, Latency, Peer, Run
from db import sweep, tasks
from db.caller import Caller
from db.pool import Database
from db.task import Draft
from service.tokens import Tokens
from tests.db.conftest import signed_in
from tests.db.hands import someone
from tests.service.served import served

FOLDER = Path(peers.__file__).parent
SECRET = "a secret for tests, 32 bytes or more"
OUTPUT = """\
pgbench (18.6)
transaction type: multiple scripts
scaling factor: 1
query mode: prepared
number of clients: 8
number of threads: 2
maximum number of tries: 1
duration: 3 s
number of transactions actually processed: 50553
number of failed transactions: 0 (0.000%)
latency average = 0.474 ms
initial connection time = 12.345 ms
tps = 16851.234567 (without initial connection time)
SQL script 1: /tmp/0.sql
 - 25000 transactions (49.5% of total, tps = 8000.1)
"""
LOG = """\
0 11 512 0 1795375000 123456
0 16 1024 1 1795375000 123999
1 2 failed 0 1795375000 124100
1 5 256 0 1795375000 124300 12
"""


@pytest.fixture
async def caller(connection: asyncpg.Connection) -> Caller:
    return await signed_in(connection, await someone(connection))


@pytest.fixture
async def made(db: Database, caller: Caller) -> int:
    """The id of a task of the caller."""
    task = await tasks.create(db, caller, Draft("a task", None, "pending", 3, None))
    assert task
    return task.id


class Nobody:
    """Knows nothing about what was spent."""

    async def cpu(self) -> tuple[float | None, float | None]:
        return None, None


# pgbench


@pytest.mark.parametrize("scenario", pgbench.STATEMENTS)
async def test_pgbench_runs_our_statements(
    scenario: str, database_url: str, caller: Caller, made: int, connection: asyncpg.Connection
) -> None:
    binary, version = await pgbench.find()
    actor = pgbench.Actor(caller.user_id, caller.sid, [made])
    stranger = await signed_in(connection, await someone(connection))
    other = pgbench.Actor(stranger.user_id, stranger.sid, [made])
    bench = pgbench.Pgbench(binary, version, database_url, [actor, other], Nobody(), clients=(2,))
    run = await bench.run(scenario, 1)
    assert (run.scenario, run.connections, run.errors) == (scenario, 2, {})
    assert run.answers > 0
    assert 0 < run.latency.p50_ms <= run.latency.p99_ms <= run.latency.max_ms
    both = [caller.user_id, stranger.user_id]
    count = await connection.fetchval("select count(*) from tasks where user_id = any($1)", both)
    assert count == 1 + (run.answers if scenario == "insert" else 0)


async def test_pgbench_is_absent_where_its_statements_would_find_nothing(
    database_url: str, caller: Caller, made: int
) -> None:
    actor = pgbench.Actor(caller.user_id, caller.sid, [made])
    await pgbench.check(database_url, [actor])
    for other in (
        pgbench.Actor(caller.user_id, str(uuid.uuid4()), [made]),
        pgbench.Actor(caller.user_id, caller.sid, [made, 2**60]),
    ):
        with pytest.raises(Absent, match="not signed in, or their tasks are gone"):
            await pgbench.check(database_url, [actor, other])


async def test_an_inlined_statement_gives_what_the_statement_gives(
    caller: Caller, made: int, connection: asyncpg.Connection
) -> None:
    values = {"user_id": f"'{caller.user_id}'", "sid": f"'{caller.sid}'", "task_id": str(made)}
    found = await connection.fetchrow(pgbench.inlined(tasks.GET, values))
    assert found == await connection.fetchrow(tasks.GET.sql, caller.user_id, caller.sid, made)
    assert found
    assert found["line"].endswith("}")


async def test_peers_get_as_rows_what_we_get_as_json(
    caller: Caller, made: int, connection: asyncpg.Connection
) -> None:
    who = (caller.user_id, caller.sid)
    mine = await connection.fetchrow(tasks.GET.sql, *who, made)
    theirs = await connection.fetchrow((FOLDER / "get.sql").read_text(), *who, made)
    assert mine
    assert theirs
    assert json.loads(mine["line"]) == dict(theirs)
    window = (None, 2**63 - 1, 0, 101, "infinity", 2**63 - 1)
    page = await connection.fetchrow(pgbench.NEWEST.sql, *who, *window)
    row = await connection.fetchrow((FOLDER / "list.sql").read_text(), *who, *window)
    assert page
    assert row
    assert json.loads(page["lines"]).items() <= dict(row).items()


@pytest.mark.parametrize("scenario", pgbench.STATEMENTS)
def test_a_script_has_a_variable_for_every_parameter_and_no_other_colon(scenario: str) -> None:
    actors = [pgbench.Actor(user, "a session", [7, 8, 9]) for user in ("somebody", "somebody else")]
    text = pgbench.script(scenario, actors)
    statements = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("\\"))
    found = set(re.findall(r"(?<!:):(\w+)", statements))
    given = {value[1:] for value in pgbench.VALUES[scenario].values() if value.startswith(":")}
    assert found == given | {"user0", "sid0", "user1", "sid1"}
    assert given <= pgbench.VARIABLES.keys() | {"task"}
    assert "$" not in statements
    assert statements.count(";") == len(actors)
    assert text.count("when :n = 2 then 9 end") == (2 if scenario == "single" else 0)


def test_reads_what_pgbench_prints() -> None:
    assert pgbench.told(OUTPUT) == pgbench.Told(50553, 0, 16851.234567, 0.474)
    older = OUTPUT.replace("number of failed transactions: 0 (0.000%)\n", "")
    assert pgbench.told(older).failed == 0
    with pytest.raises(Absent, match="another report"):
        pgbench.told("pgbench: error: no such file")


def test_reads_latencies_from_its_log() -> None:
    taken = [*pgbench.latencies(LOG)]
    assert taken == [0.512, 1.024, 0.256]
    assert pgbench.latency(taken, 0.6) == Latency(0.512, 1.024, 1.024, 1.024, 1.024, 0.6)
    assert pgbench.latency([], 0.6) == Latency(*[0.6] * 6)


# Answers


def test_names_the_field_that_differs() -> None:
    page = {"items": [{"id": 1, "title": "a", "completed": False}], "next_cursor": "x", "revision": 3}
    assert difference(page, page | {"next_cursor": "in another form"}) is None
    assert difference(page, page | {"next_cursor": None}) == "/next_cursor is true instead of false"
    for change, place in (
        ({"title": "b"}, "/items/0/title"),
        ({"id": "1"}, "/items/0/id"),
        ({"completed": 0}, "/items/0/completed"),
    ):
        found = difference(page, page | {"items": [page["items"][0] | change]})  # type: ignore[index]
        assert found is not None
        assert found.startswith(f"{place} is ")
    assert difference({"at": "2030-01-02T03:04:05.6789Z"}, {"at": "2030-01-02T03:04:05.678900Z"}) is None
    assert difference({"at": "2030-01-02T03:04:05.6789Z"}, {"at": "2030-01-02T03:04:05.678901Z"}) is not None
    assert difference(page, page | {"items": []}) == "/items has 0 items instead of 1"
    assert difference(page, {"items": []}) == "/ has other fields: next_cursor, revision"


def test_knows_the_key_of_our_tokens() -> None:
    import jwt

    token = Tokens(SECRET, ttl=60).access("somebody", str(uuid.uuid4()))
    jwt.decode(token, answers.token_key(SECRET), algorithms=["HS256"], audience="roundtrip-api")


class Place(Struct):
    """Where something listens."""

    port: int
    host: str = "127.0.0.1"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, database_url: str) -> Iterator[Place]:
    """The service as its users run it."""
    folder = tmp_path_factory.mktemp("peers")
    with served(folder, DATABASE_URL=database_url, SECRET_KEY=SECRET, RATE_LIMITS="off") as running:
        yield Place(int(running.base.rpartition(":")[2]))


@pytest.fixture
async def subject(db: Database, caller: Caller, made: int, connection: asyncpg.Connection) -> Subject:
    """Somebody with two pages of tasks, and one that is not theirs."""
    await connection.execute(
        "insert into tasks (user_id, title) select $1, 'task ' || n from generate_series(1, 150) n",
        caller.user_id,
    )
    stranger = await signed_in(connection, await someone(connection))
    foreign = await tasks.create(db, stranger, Draft("not yours", None, "pending", 3, None))
    assert foreign
    token = Tokens(SECRET, ttl=600).access(caller.user_id, caller.sid)
    return Subject(caller.user_id, token, [made], foreign.id)


Change = Callable[[str, str, int, Any], tuple[int, Any]]


@contextmanager
def changing(service: Place, change: Change) -> Iterator[Place]:
    """A peer that asks the service and changes some of what it says."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent = self.rfile.read(int(self.headers.get("content-length", 0)))
            connection = HTTPConnection(service.host, service.port)
            connection.request(self.command, self.path, sent or None, dict(self.headers))
            answer = connection.getresponse()
            status, body = change(self.command, self.path, answer.status, json.loads(answer.read()))
            connection.close()
            raw = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_POST = do_GET  # noqa: N815 (as http.server calls it)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Place(server.server_port)
        finally:
            server.shutdown()
            thread.join()


async def test_who_answers_as_we_do_is_the_same(service: Place, subject: Subject) -> None:
    with changing(service, lambda _method, _path, status, body: (status, body)) as peer:
        await same(peer, service, subject, SECRET)


def _other_title(_method: str, path: str, status: int, body: Any) -> tuple[int, Any]:
    return status, body | {"title": "another"} if "title" in body and "limit" not in path else body


def _short_page(_method: str, _path: str, status: int, body: Any) -> tuple[int, Any]:
    return status, body | {"items": body["items"][:50]} if "items" in body else body


def _second_page_again(_method: str, path: str, status: int, body: Any) -> tuple[int, Any]:
    return status, body | {"items": body["items"][::-1]} if "cursor" in path else body


def _lets_everybody_in(_method: str, _path: str, status: int, body: Any) -> tuple[int, Any]:
    return (200, body) if status == 401 else (status, body)


def _tells_of_others(_method: str, _path: str, status: int, body: Any) -> tuple[int, Any]:
    return (403, body) if status == 404 else (status, body)


def _stores_something_else(method: str, _path: str, status: int, body: Any) -> tuple[int, Any]:
    return status, body | {"updated_at": "2020-01-01T00:00:00Z"} if method == "POST" else body


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (_other_title, "/title is"),
        (_short_page, "/items has 50 items instead of 100"),
        (_second_page_again, "the second page: /items/0/"),
        (_lets_everybody_in, "GET with no token: 200 instead of 401"),
        (_tells_of_others, "403 instead of 404"),
        (_stores_something_else, "as it is stored: /updated_at is"),
    ],
)
async def test_who_answers_otherwise_is_found_out(
    service: Place, subject: Subject, change: Change, complaint: str
) -> None:
    with changing(service, change) as peer, pytest.raises(Differs, match=complaint):
        await same(peer, service, subject, SECRET)


# Turns


def test_everybody_has_a_turn_in_each_scenario_and_each_time_the_next_one_begins() -> None:
    assert [*peers.turns(3, 2)] == [
        ("single", [0, 1, 2]),
        ("list", [1, 2, 0]),
        ("insert", [2, 0, 1]),
        ("single", [0, 1, 2]),
        ("list", [1, 2, 0]),
        ("insert", [2, 0, 1]),
    ]
    assert [order for _, order in peers.turns(2, 1)] == [[0, 1], [1, 0], [0, 1]]


class Fake:
    """Takes its turns, and notes them."""

    processes = 1

    def __init__(self, name: str, diary: list[tuple[str, str]], *, fails_at: str = "") -> None:
        self.name = name
        self.versions = {name: "1.0"}
        self.diary = diary
        self.fails_at = fails_at

    async def run(self, scenario: str, seconds: float) -> Run:
        self.diary.append((self.name, scenario))
        if scenario == self.fails_at:
            raise Absent("it broke")
        generator = Generator(1, 0.1, 0.1, bottleneck=False)
        return Run(
            scenario,
            "closed",
            64,
            None,
            seconds,
            9,
            9.0,
            {},
            Latency(1, 1, 1, 1, 1, 1),
            generator,
            None,
            None,
        )


async def test_who_fails_is_out_and_says_why_and_the_others_go_on() -> None:
    diary: list[tuple[str, str]] = []

    async def clean() -> None:
        diary.append(("", "clean"))

    entrants = [Fake("a", diary), Fake("b", diary, fails_at="list")]
    found = await peers.take_turns(entrants, 2, 1.0, clean=clean, progress=lambda _: None)
    once = [("b", "single"), ("a", "single"), ("a", "list"), ("a", "insert"), ("", "clean")]
    assert diary[:5] == [("a", "single"), ("b", "single"), ("b", "list"), ("a", "list"), ("a", "insert")]
    assert diary[5:] == [("", "clean"), *[entry for entry in once if entry[0] != "b"]]
    assert [run.scenario for run in found["a", 1].runs] == ["single", "list", "insert"] * 2
    assert found["b", 1] == Peer("b", {"b": "1.0"}, 1, "it failed at list: it broke", found["b", 1].runs)
    assert [run.scenario for run in found["b", 1].runs] == ["single"]


# Absence


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: f"{program.name} {program.processes}")
async def test_what_cannot_be_installed_is_absent_with_its_reason(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    async def enter() -> peers.Entrant:
        await program.make(tmp_path)
        raise AssertionError

    why = await peers._entered(enter)
    assert isinstance(why, str)
    assert why.startswith(("there is no uv on this machine", "there is no node ", "there is no go "))


async def test_what_does_not_start_is_absent_with_its_reason(tmp_path: Path) -> None:
    made = Made(["python3", "-c", "raise SystemExit('the reason, by https://a.host/x')"], {})
    with pytest.raises(Absent, match=r"it ended while starting: the reason, by \(an address\)"):
        async with serving(made, {}, Nobody(), tmp_path / "log"):
            pass


def test_a_complaint_tells_no_address_and_no_folder() -> None:
    told = said("npm error\nrequest to https://a.registry/fastify failed\n  at /srv/me/.cache/x.js:3\n")
    assert told == "npm error / request to (an address) failed / at (a folder):3"
    assert said("") == "it said nothing"


# Sweeping


async def test_sweeping_takes_what_came_since_the_mark_and_nothing_else(
    own: Database, hand: asyncpg.Connection
) -> None:
    owners = [await signed_in(hand, await someone(hand)) for _ in range(2)]
    draft = Draft("a task", None, "pending", 3, None)
    kept = [await tasks.create(own, owner, draft) for owner in owners]
    last = await sweep.mark(own)
    assert last == max(task.id for task in kept if task)
    for owner in (*owners, *owners):
        await tasks.create(own, owner, draft)
    assert await sweep.tasks(own, last, [owners[0].user_id]) == 2
    assert await sweep.tombstones(own, last, [owners[0].user_id]) == 2
    await sweep.vacuum(own)
    left = await hand.fetch("select user_id, count(*) from tasks group by user_id")
    assert dict(map(tuple, left)) == {owners[0].user_id: 1, owners[1].user_id: 3}
    assert await hand.fetchval("select count(*) from tombstones") == 0
