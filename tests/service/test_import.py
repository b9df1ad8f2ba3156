"""`roundtrip import`: the todos of the console app become a user's tasks, all of them or none, once."""

import asyncio
import csv
import io
import json
import re
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.imports import Import
from service import phase1
from service.imports import CHUNK, NAMED
from service.phase1 import Bad, Format, read
from service.settings import Settings
from tests.conftest import ROOT
from tests.service.served import PATIENCE, command, environment

PAPER = (ROOT / "docs" / "PHASE1.md").read_text(encoding="utf-8")
HEADER = "key,title,description,completed\n"
UNFIT = "must not contain a NUL, half a surrogate pair or bytes that are not UTF-8"
TODOS = {
    "b": {"title": "  Buy milk ", "description": "2 litres", "completed": False},
    "a": {"title": "Call\nAnna", "description": 'She said "now", or so', "completed": True},
    "ключ/1": {"title": "🦊" * 200, "description": "", "completed": False},
}


class Importing:
    """A user of their own, and the command in a folder."""

    def __init__(self, folder: Path, url: str, connection: asyncpg.Connection) -> None:
        self.folder, self.url, self.connection = folder, url, connection
        self.user = uuid.uuid4().hex
        self.email = f"{self.user}@example.com"

    def file(self, name: str, content: str | bytes) -> str:
        raw = content.encode() if isinstance(content, str) else content
        (self.folder / name).write_bytes(raw)
        return name

    def run(
        self, *arguments: str, user: str | None = None, stdin: str = "", **settings: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command("import", *arguments, "--user", user or self.user),
            check=False,
            cwd=self.folder,
            env=environment(DATABASE_URL=self.url, **settings),
            input=stdin,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=PATIENCE,
        )

    def refused(self, *arguments: str, **settings: str) -> list[str]:
        """The faults of a file that is not imported."""
        done = self.run(*arguments, **settings)
        assert (done.returncode, done.stdout) == (1, "")
        told = done.stderr.splitlines()
        assert told[1] == f"Error: {arguments[0]} cannot be imported, and nothing of it was:"
        return [line.removeprefix("  ") for line in told[2:]]

    async def tasks(self) -> list[asyncpg.Record]:
        """The user's tasks in the order of their revisions, which are without a gap."""
        rows = await self.connection.fetch(
            "select * from tasks where user_id = $1 order by revision", self.user
        )
        last = await self.connection.fetchval("select revision from user_state where user_id = $1", self.user)
        assert [row["revision"] for row in rows] == list(range(last - len(rows) + 1, last + 1))
        return rows


@pytest.fixture
async def importing(tmp_path: Path, database_url: str, connection: asyncpg.Connection) -> Importing:
    it = Importing(tmp_path, database_url, connection)
    await connection.execute("insert into users (id, email) values ($1, $2)", it.user, it.email)
    return it


def as_csv(todos: dict[str, dict[str, Any]]) -> str:
    sink = io.StringIO(newline="")
    writer = csv.writer(sink)
    writer.writerow(["key", "title", "description", "completed"])
    for key, todo in todos.items():
        writer.writerow([key, todo["title"], todo["description"], todo["completed"]])
    return sink.getvalue()


def read_text(text: str, format: Format, settings: Settings | None = None) -> list[Import | Bad]:
    return list(read(io.StringIO(text, newline=""), format, settings or Settings()))


# What becomes of a file


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "with a byte order mark"])
@pytest.mark.parametrize("format", ["json", "csv"])
async def test_todos_become_tasks(importing: Importing, format: str, mark: str) -> None:
    await importing.connection.execute(
        "insert into tasks (user_id, title) values ($1, 'there before')", importing.user
    )
    text = json.dumps(TODOS, ensure_ascii=not mark, indent=2) if format == "json" else as_csv(TODOS)
    done = importing.run(importing.file(f"todos.{format.upper()}", mark + text))
    assert (done.returncode, done.stdout) == (0, "3 imported, 0 there already\n"), done.stderr
    assert done.stderr == f"Checking todos.{format.upper()}\nImporting 3 tasks\n"
    before, *tasks = await importing.tasks()
    assert before["revision"] == 1
    columns = ("import_key", "title", "description", "status", "priority", "due_date", "deleted_at")
    assert [tuple(task[name] for name in columns) for task in tasks] == [
        ("b", "Buy milk", "2 litres", "pending", 3, None, None),
        ("a", "Call\nAnna", 'She said "now", or so', "completed", 3, None, None),
        ("ключ/1", "🦊" * 200, None, "pending", 3, None, None),
    ]
    assert [task["id"] for task in tasks] == sorted(task["id"] for task in tasks)
    assert len({task["created_at"] for task in tasks} | {task["updated_at"] for task in tasks}) == 1
    assert [task["completed_at"] for task in tasks] == [None, tasks[0]["created_at"], None]


async def test_another_run_imports_only_what_is_new(importing: Importing) -> None:
    todos: dict[str, Any] = {str(n): {"title": f"todo {n}"} for n in range(6)}
    assert importing.run(importing.file("todos.json", json.dumps(todos))).returncode == 0
    for change in (
        "update tasks set title = 'changed' where user_id = $1 and import_key = '1'",
        "update tasks set deleted_at = now() where user_id = $1 and import_key = '2'",
        "delete from tasks where user_id = $1 and import_key = '3'",
    ):
        await importing.connection.execute(change, importing.user)
    kept = await importing.connection.fetch(
        "select * from tasks where user_id = $1 order by id", importing.user
    )
    more = {"new": {"title": "new"}} | todos
    again = importing.run(importing.file("more.json", json.dumps(more)))
    assert (again.returncode, again.stdout) == (0, "2 imported, 5 there already\n")
    tasks = await importing.connection.fetch(
        "select * from tasks where user_id = $1 order by id", importing.user
    )
    assert tasks[:5] == kept
    assert [(task["import_key"], task["revision"]) for task in tasks[5:]] == [("new", 10), ("3", 11)]
    third = importing.run("more.json")
    assert third.stdout == "0 imported, 7 there already\n"
    last = await importing.connection.fetchval(
        "select revision from user_state where user_id = $1", importing.user
    )
    assert last == 11


async def test_keys_of_others_are_their_own(importing: Importing) -> None:
    other = uuid.uuid4().hex
    await importing.connection.execute(
        "insert into users (id, email) values ($1, $1 || '@example.com')", other
    )
    file = importing.file("todos.csv", as_csv(TODOS))
    assert importing.run(file, user=other).stdout == "3 imported, 0 there already\n"
    assert importing.run(file).stdout == "3 imported, 0 there already\n"


async def test_many_are_looked_up_and_copied_in_parts(importing: Importing) -> None:
    count = 2 * CHUNK + 1
    text = HEADER + "".join(f"{n},todo {n},,{n % 2}\n" for n in range(count))
    done = importing.run(importing.file("todos.csv", text))
    assert done.stdout == f"{count:,} imported, 0 there already\n"
    assert [task["import_key"] for task in await importing.tasks()] == [str(n) for n in range(count)]
    await importing.connection.execute(
        "delete from tasks where user_id = $1 and import_key = any($2)", importing.user, ["5", str(CHUNK)]
    )
    assert importing.run("todos.csv").stdout == f"2 imported, {count - 2:,} there already\n"


async def test_two_at_once_import_it_once(importing: Importing) -> None:
    file = importing.file("todos.csv", HEADER + "".join(f"{n},todo {n},,no\n" for n in range(3000)))
    both = await asyncio.gather(*(asyncio.to_thread(importing.run, file) for _ in range(2)))
    assert [done.returncode for done in both] == [0, 0]
    assert sorted(done.stdout for done in both) == [
        "0 imported, 3,000 there already\n",
        "3,000 imported, 0 there already\n",
    ]
    assert len(await importing.tasks()) == 3000


# Which user, which file


async def test_the_user_is_an_id_or_an_address(importing: Importing) -> None:
    file = importing.file("todos.csv", as_csv(TODOS))
    assert importing.run(file, user=importing.email.upper()).stdout == "3 imported, 0 there already\n"
    assert importing.run(file).stdout == "0 imported, 3 there already\n"
    done = importing.run(file, user="nobody@example.com")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: there is no user with the id or e-mail address nobody@example.com\n"


async def test_a_dry_run_changes_nothing(importing: Importing) -> None:
    file = importing.file("todos.csv", as_csv(TODOS))
    done = importing.run(file, "--dry-run")
    assert (done.returncode, done.stdout) == (0, "3 to import, 0 there already; nothing was changed\n")
    assert await importing.tasks() == []
    importing.run(file)
    assert importing.run(file, "--dry-run").stdout == "0 to import, 3 there already; nothing was changed\n"
    assert importing.refused(importing.file("bad.csv", HEADER + "1,,,"), "--dry-run")


async def test_it_works_in_production(importing: Importing) -> None:
    done = importing.run(importing.file("todos.csv", as_csv(TODOS)), ENVIRONMENT="production")
    assert (done.returncode, done.stdout) == (0, "3 imported, 0 there already\n")


async def test_standard_input_is_a_file_too(importing: Importing) -> None:
    for format, text in (("json", json.dumps(TODOS)), ("csv", as_csv(TODOS))):
        done = importing.run("-", "--format", format, "--dry-run", stdin=text)
        assert (done.returncode, done.stdout) == (0, "3 to import, 0 there already; nothing was changed\n")
    wrong = importing.run("-", "--format", "csv", stdin=HEADER + "1,,,no")
    assert wrong.stderr.startswith("Checking standard input\nError: standard input cannot be imported")
    untold = importing.run("-", stdin=text)
    assert (untold.returncode, untold.stdout) == (2, "")
    assert "say --format" in untold.stderr


@pytest.mark.parametrize(
    "arguments", [("missing.json",), (".",), ("todos.txt",), ("todos.json", "--format", "xml"), ()]
)
async def test_a_wrong_command_line_is_exit_code_2(importing: Importing, arguments: tuple[str, ...]) -> None:
    importing.file("todos.txt", "{}")
    importing.file("todos.json", "{}")
    done = importing.run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Error: " in done.stderr


def test_help_helps(tmp_path: Path) -> None:
    done = subprocess.run(
        command("import", "--help"),
        check=False,
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("--user", "--format", "--dry-run", "key,title,description,completed"):
        assert word in done.stdout


# What is wrong with it


async def test_nothing_is_half_imported_and_every_fault_is_named(importing: Importing) -> None:
    good = "".join(f"{n},todo {n},,no\n" for n in range(CHUNK + 10))
    faults = importing.refused(importing.file("todos.csv", HEADER + good + "x,,,maybe\n"))
    assert faults == [
        f"line {CHUNK + 12}: title: must have 1 to 200 characters after trimming",
        f"line {CHUNK + 12}: completed: must be true or false, in CSV also 1, 0, yes or no",
    ]
    assert await importing.tasks() == []


async def test_many_faults_are_counted(importing: Importing) -> None:
    lines = "".join(f"{n},,,no\n" for n in range(NAMED + 7))
    faults = importing.refused(importing.file("todos.csv", HEADER + lines))
    assert len(faults) == NAMED + 1
    assert faults[-2:] == [
        f"line {NAMED + 1}: title: must have 1 to 200 characters after trimming",
        "and 7 more",
    ]


async def test_limits_are_those_of_the_settings(importing: Importing) -> None:
    text = json.dumps(
        {"1": {"title": "12345", "description": "1234"}, "2": {"title": " 1234 ", "description": ""}}
    )
    limits = {"TITLE_MAX_LENGTH": "4", "DESCRIPTION_MAX_LENGTH": "3"}
    assert importing.refused(importing.file("todos.json", text), **limits) == [
        'key "1": title: must have 1 to 4 characters after trimming',
        'key "1": description: must have 3 characters at most',
    ]


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("", ["line 1: key: is missing in the header", "line 1: title: is missing in the header"]),
        (
            "key;title\n1;x\n",
            [
                'line 1: "key;title": is not known here; known are key, title, description, completed',
                "line 1: key: is missing in the header",
                "line 1: title: is missing in the header",
            ],
        ),
        ('"key"s,title\n', ["line 1: is not CSV: ',' expected after '\"'", "line 2: key: is missing in the header", "line 2: title: is missing in the header"]),
        ("key,title,title\n", ["line 1: title: stands there twice"]),
        (HEADER + "1,x,,1,more\n", ["line 2: has 5 fields, the header has 4"]),
        (HEADER + '1,"x\ny",,yes\n\n2,,,no\n', ["line 5: title: must have 1 to 200 characters after trimming"]),
        (HEADER + f"1,{'x' * 201},{'y' * 1001},\n", ["line 2: title: must have 1 to 200 characters after trimming",
            "line 2: description: must have 1000 characters at most",
            "line 2: completed: must be true or false, in CSV also 1, 0, yes or no"]),
        (HEADER + "1,x,,0\n1,x,,0\n", ["line 3: key: an earlier todo has it"]),
        (HEADER + f",x,,0\n{'k' * 256},x,,0\n", ["line 2: key: must have 1 to 255 characters", "line 3: key: must have 1 to 255 characters"]),
        (HEADER + "\0,x\0,\0,0\n", [f"line 2: key: {UNFIT}", f"line 2: title: {UNFIT}", f"line 2: description: {UNFIT}"]),
        (HEADER + '1,"x"y,,0\n2,,,0\n', ["line 2: is not CSV: ',' expected after '\"'", "line 3: title: must have 1 to 200 characters after trimming"]),
        (HEADER + '1,x,,0\n2,"x,,0\n', ["line 3: is not CSV: unexpected end of data"]),
    ],
)  # fmt: skip
def test_bad_csv_is_named(text: str, faults: list[str]) -> None:
    bad = [item for item in read_text(text, "csv") if isinstance(item, Bad)]
    assert [f"{where}: {why}" for where, why in bad] == faults


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("", ["line 1, character 1 of the file: is not JSON: expecting {"]),
        ("[]", ["line 1, character 1 of the file: is not JSON: expecting {"]),
        ('{"a": {"title": "x"}, }', ["line 1, character 23 of the file: is not JSON: expecting a key in double quotes"]),
        ('{"a": {"title": "x"} "b": {}}', ["line 1, character 22 of the file: is not JSON: expecting a comma or }"]),
        ('{"a" {}}', ["line 1, character 6 of the file: is not JSON: expecting :"]),
        ("{1: {}}", ["line 1, character 2 of the file: is not JSON: expecting a key in double quotes"]),
        ("{} {}", ["line 1, character 4 of the file: is not JSON: expecting nothing after the object"]),
        ('{"a": {},\n "b', ['key "a": title: is required', "line 2, character 12 of the file: is not JSON: unterminated string starting"]),
        ('{"a": ' + "[" * 100_000, ["line 1, character 7 of the file: is not JSON: nested too deep"]),
        ('{"a": {"title": 5, "description": [], "completed": 1}}', [
            'key "a": title: must be a string', 'key "a": description: must be a string',
            'key "a": completed: must be true or false, in CSV also 1, 0, yes or no']),
        ('{"a": {"title": null, "completed": "yes"}}', [
            'key "a": title: must be a string',
            'key "a": completed: must be true or false, in CSV also 1, 0, yes or no']),
        ('{"a": [["title", "x"]], "b": null, "c": 1' + "0" * 5000 + "}", ['key "a": must be an object', 'key "b": must be an object', 'key "c": must be an object']),
        ('{"a": {"title": "x", "id": 1, "ID\\u0007": {}}}', [
            'key "a": "id": is not known here; known are title, description, completed',
            'key "a": "ID\\u0007": is not known here; known are title, description, completed']),
        ('{"a": {"title": "x", "title": "y"}}', ['key "a": title: stands there twice']),
        ('{"a": {"title": "x"}, "\\u0061": {"title": "y"}}', ['key "a": key: an earlier todo has it']),
        ('{"\\u0000": {"title": "\\ud800", "description": "\\u0000"}}', [
            f'key "\\u0000": key: {UNFIT}', f'key "\\u0000": title: {UNFIT}', f'key "\\u0000": description: {UNFIT}']),
    ],
)  # fmt: skip
def test_bad_json_is_named(text: str, faults: list[str]) -> None:
    bad = [item for item in read_text(text, "json") if isinstance(item, Bad)]
    assert [f"{where}: {why}" for where, why in bad] == faults


@pytest.mark.parametrize("format", ["json", "csv"])
async def test_bytes_that_are_not_utf8_are_named(importing: Importing, format: str) -> None:
    raw = b'{"1": {"title": "caf\xe9"}}' if format == "json" else HEADER.encode() + b"1,caf\xe9,,no\n"
    where = 'key "1"' if format == "json" else "line 2"
    assert importing.refused(importing.file(f"todos.{format}", raw)) == [f"{where}: title: {UNFIT}"]


@pytest.mark.parametrize("word", ["true", "TRUE", "1", "Yes", " yes ", "false", "False", "0", "NO"])
def test_completed_is_a_word_in_csv(word: str) -> None:
    (found,) = read_text(f"completed,key,title\n{word},1,x\n", "csv")
    assert found == Import("1", "x", None, word.strip().lower() in ("true", "1", "yes"))


def test_a_todo_that_is_too_long_to_read_is_told_from_one_that_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(phase1, "AHEAD", 100)
    (found,) = read_text(json.dumps({"1": {"title": "x" * 300}, "2": {"title": "y" * 300}}), "json")
    assert isinstance(found, Bad)
    assert found.why.endswith(", or a todo has more than 100 characters")


# Properties

words = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=10)
todos = st.dictionaries(
    words.filter(bool),
    st.fixed_dictionaries(
        {
            "title": words.filter(lambda text: text.strip() != ""),
            "description": words,
            "completed": st.booleans(),
        }
    ),
    max_size=20,
)


def imported(todos: dict[str, dict[str, Any]]) -> list[Import]:
    return [
        Import(key, todo["title"].strip(), todo["description"] or None, todo["completed"])
        for key, todo in todos.items()
    ]


@given(todos, st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_json_is_read_in_pieces_as_in_one(
    todos: dict[str, dict[str, Any]], escaped: bool, indent: int | str | None
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phase1, "AHEAD", 400)  # no todo of these has more, and most files do
        assert read_text(json.dumps(todos, ensure_ascii=escaped, indent=indent), "json") == imported(todos)


@given(todos)
def test_csv_is_what_was_written(todos: dict[str, dict[str, Any]]) -> None:
    assert read_text(as_csv(todos), "csv") == imported(todos)


# The paper and the size


@pytest.mark.parametrize("format", ["json", "csv"])
def test_examples_of_the_paper_are_good(format: Format) -> None:
    (example,) = re.findall(rf"^```{format}\n(.*?)^```$", PAPER, re.MULTILINE | re.DOTALL)
    assert read_text(example, format)[0] == Import("1", "Buy groceries", "Milk, bread, eggs", False)
    assert read_text(example, format)[1:] == [Import("2", "Call dentist", None, True)]


def test_faults_of_the_paper_are_those_that_are_told() -> None:
    csv_faults = read_text(HEADER + "1,,,maybe\n1,x,no\n3,x,,no\n3,x,,no\n", "csv")
    json_faults = read_text(
        '{"1": {"title": "x", "description": 5}, "2": {"title": "y", "prio": 1}, "1": {"title": "x"}}', "json"
    )
    for fault in (*csv_faults, *json_faults):
        if isinstance(fault, Bad):
            assert any(f"{fault.why}\n" in line for line in PAPER.splitlines(keepends=True)), fault


# Not getrusage: what it tells of a child begins at the memory of the parent.
PEAK = """
import re, sys
from pathlib import Path
from service.cli import main
try:
    main(sys.argv[1:])
finally:
    print(re.search("VmHWM:(.*)kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.parametrize("format", ["json", "csv"])
async def test_memory_does_not_grow_with_the_file(importing: Importing, format: str) -> None:
    sizes, peaks = [], []
    for count in (1_000, 5_000):
        todos = {
            f"{count}-{n}": {"title": f"todo {n}", "description": "y" * 5_000, "completed": True}
            for n in range(count)
        }
        text = json.dumps(todos) if format == "json" else as_csv(todos)
        file = importing.file(f"{count}.{format}", text)
        done = subprocess.run(
            [sys.executable, "-c", PEAK, "import", file, "--user", importing.user],
            check=True,
            cwd=importing.folder,
            env=environment(DATABASE_URL=importing.url, DESCRIPTION_MAX_LENGTH="5000"),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        told, peak = done.stdout.splitlines()
        assert told == f"{count:,} imported, 0 there already"
        sizes.append(len(text))
        peaks.append(int(peak) * 1024)
    assert sizes[1] - sizes[0] >= 20_000_000
    assert peaks[1] - peaks[0] < 8_000_000
