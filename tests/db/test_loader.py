"""The loader of `db/sql/*.sql`, and promises of the files that `db.pool` builds upon."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from db import statements
from db.pool import PREPARED
from db.statements import Statement

ROOT = Path(__file__).parents[2]
STATEMENTS = list(statements.every())
Load = Callable[..., dict[str, Statement]]

NOTES = """
Words before the first statement are for the reader.

-- name: get
-- kind: read
-- takes: id bigint, words text[]
-- rides on: notes_pkey, notes_words_idx
-- One note.
-- Of many words.
select n.id -- kind: of an identity
from notes n
where n.id = $1;

-- name: add
-- kind: write
-- takes:
-- rides on:
insert into notes default values

-- name: bare
-- kind: read
select 1
"""

FRAGMENTS = """
-- fragment: live
-- What is there to see.
@.deleted_at is null

-- fragment: mine
{live n} and n.user_id = $1
    and {open}

-- fragment: open
n.state = 'open'
"""


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Load statements of a text as those of `notes`."""
    monkeypatch.setattr(statements, "FOLDER", tmp_path)

    def load(text: str, fragments: str = FRAGMENTS) -> dict[str, Statement]:
        (tmp_path / "notes.sql").write_text(text, encoding="utf-8")
        (tmp_path / "fragments.sql").write_text(fragments, encoding="utf-8")
        clear()
        return statements.load("notes")

    def clear() -> None:
        statements.load.cache_clear()
        statements._fragments.cache_clear()

    clear()
    yield load
    clear()


def header(body: str) -> str:
    return f"-- name: get\n-- kind: read\n{body}"


# The loader


def test_a_statement_has_all_that_its_header_tells(load: Load) -> None:
    assert load(NOTES)["get"] == Statement(
        name="notes.get",
        sql="select n.id -- kind: of an identity\nfrom notes n\nwhere n.id = $1",
        kind="read",
        takes=("id bigint", "words text[]"),
        rides_on=("notes_pkey", "notes_words_idx"),
        doc="One note. Of many words.",
        family="notes.get",
    )


def test_a_header_may_be_short(load: Load) -> None:
    loaded = load(NOTES)
    assert list(loaded) == ["get", "add", "bare"]
    for verb, sql, kind in (
        ("add", "insert into notes default values", "write"),
        ("bare", "select 1", "read"),
    ):
        found = loaded[verb]
        assert (found.name, found.sql, found.kind) == (f"notes.{verb}", sql, kind)
        assert (found.takes, found.rides_on, found.doc, found.member) == ((), (), "", ())


def test_statements_are_read_once(load: Load) -> None:
    load(NOTES)
    assert statements.load("notes") is statements.load("notes")


def test_every_resource_but_the_fragments(load: Load) -> None:
    load(NOTES)
    (statements.FOLDER / "books.sql").write_text(header("select 2"), encoding="utf-8")
    assert [s.name for s in statements.every()] == ["books.get", "notes.get", "notes.add", "notes.bare"]


def test_fragments_stand_for_their_text(load: Load) -> None:
    assert load(header("select {open}"))["get"].sql == "select n.state = 'open'"


def test_a_fragment_takes_an_alias(load: Load) -> None:
    assert load(header("select {live t}, {live u}"))["get"].sql == (
        "select t.deleted_at is null, u.deleted_at is null"
    )


def test_fragments_stand_within_fragments(load: Load) -> None:
    assert load(header("select {mine}"))["get"].sql == (
        "select n.deleted_at is null and n.user_id = $1\n    and n.state = 'open'"
    )


FAMILY = """
-- name: list
-- kind: read
-- each: scope live trash, way asc desc
-- takes: id bigint{scope_takes}
-- rides on: {scope_index}
select 1 from notes n where {scope n} order by n.id {way}

-- name: get
-- kind: read
select 2
"""

VALUES = """
-- fragment: scope_live
@.deleted_at is null

-- fragment: scope_live_index
notes_live_idx

-- fragment: scope_live_takes

-- fragment: scope_trash
{gone @}

-- fragment: gone
@.deleted_at is not null

-- fragment: scope_trash_index
notes_trash_idx

-- fragment: scope_trash_takes
, since timestamptz

-- fragment: way_asc
asc

-- fragment: way_desc
desc
"""


def test_a_family_has_a_member_for_each_place(load: Load) -> None:
    loaded = load(FAMILY, VALUES)
    assert list(loaded) == ["list_live_asc", "list_live_desc", "list_trash_asc", "list_trash_desc", "get"]
    member = loaded["list_trash_desc"]
    assert (member.name, member.family, member.member) == (
        "notes.list_trash_desc",
        "notes.list",
        ("trash", "desc"),
    )
    assert member.sql == "select 1 from notes n where n.deleted_at is not null order by n.id desc"
    assert (member.takes, member.rides_on) == (("id bigint", "since timestamptz"), ("notes_trash_idx",))
    assert loaded["list_live_asc"].takes == ("id bigint",)


def test_a_family_is_found_by_place(load: Load) -> None:
    loaded = load(FAMILY, VALUES)
    found = statements.family("notes", "list")
    assert len(found) == 4
    assert found["live", "asc"] is loaded["list_live_asc"]
    assert statements.family("notes", "get") == {}


def test_a_value_without_its_fragment_is_refused(load: Load) -> None:
    with pytest.raises(ValueError, match=r"statement notes\.list: there is no fragment \{way_up\}"):
        load(FAMILY.replace("asc desc", "asc up"), VALUES)


@pytest.mark.parametrize("kind", ["", "-- kind:", "-- kind: reads", "-- kind: Read", "-- kinds: read"])
def test_a_statement_without_a_kind_is_refused(load: Load, kind: str) -> None:
    with pytest.raises(ValueError, match=r"statement notes\.get: its header needs 'kind: read'"):
        load(f"-- name: get\n{kind}\nselect 1")


@pytest.mark.parametrize("word", ["{opne}", "{opne n}", "{Open}"])
def test_an_unknown_fragment_is_refused(load: Load, word: str) -> None:
    with pytest.raises(ValueError, match=r"statement notes\.get: there is no fragment \{(opne|Open)\}"):
        load(header(f"select {word}"))


def test_an_unknown_fragment_within_a_fragment_is_refused(load: Load) -> None:
    with pytest.raises(ValueError, match=r"statement notes\.get: there is no fragment \{nothing\}"):
        load(header("select {a}"), "-- fragment: a\n{nothing}\n")


def test_an_unknown_statement_is_a_key_error(load: Load) -> None:
    with pytest.raises(KeyError, match="gte"):
        load(NOTES)["gte"]


def test_an_unknown_resource_is_refused(load: Load) -> None:
    with pytest.raises(FileNotFoundError, match=r"books\.sql"):
        statements.load("books")


# The files


def test_nothing_is_left_to_expand() -> None:
    for statement in STATEMENTS:
        assert not re.search(r"\{\w|@\.", statement.sql), statement.name


def test_takes_names_each_parameter() -> None:
    for statement in STATEMENTS:
        used = {int(number) for number in re.findall(r"\$(\d+)", statement.sql)}
        assert used == set(range(1, len(statement.takes) + 1)), statement.name


def test_names_are_used_once() -> None:
    for path in sorted(statements.FOLDER.glob("*.sql")):
        marked = re.findall(r"^--\s*(?:name|fragment)\b.*$", path.read_text("utf-8"), flags=re.MULTILINE)
        assert len(marked) == len(set(marked)), path.name
        if path.stem != "fragments":
            families = dict.fromkeys(statement.family for statement in statements.load(path.stem).values())
            assert [f"-- name: {name.removeprefix(path.stem + '.')}" for name in families] == marked


def test_every_fragment_is_used() -> None:
    text = "".join(path.read_text("utf-8") for path in statements.FOLDER.glob("*.sql"))
    axes = [
        axis.split() for each in re.findall("^-- each: (.*)$", text, re.MULTILINE) for axis in each.split(",")
    ]
    for word in statements._fragments():
        names = {word} | {
            re.sub(rf"^{axis}_{value}(?=_|$)", axis, word) for axis, *values in axes for value in values
        }
        assert re.search(rf"\{{({'|'.join(names)})[ }}]", text), word


def test_headers_have_no_misspelt_line() -> None:
    for path in sorted(statements.FOLDER.glob("*.sql")):
        for key in re.findall(r"^-- ?([a-z ]{3,12}):(?: |$)", path.read_text("utf-8"), flags=re.MULTILINE):
            assert key in {"name", "kind", "each", "takes", "rides on", "fragment"}, f"{path.name}: {key}"


def test_all_stay_prepared_on_a_connection() -> None:
    assert len(STATEMENTS) <= PREPARED
    for statement in STATEMENTS:
        assert len(statement.sql) <= 1024 * 15, f"asyncpg does not keep {statement.name}"


CHANGES = (
    r"\b(insert\s+into|update\s+\w+(\s+\w+)?\s+set|delete\s+from|merge\s+into|nextval|setval|pg_notify)\b"
)


def test_what_is_sent_twice_changes_nothing() -> None:
    """A read whose connection was lost is sent again; so is what keeps its key."""
    for statement in STATEMENTS:
        changes = re.search(CHANGES, code(statement.sql))
        keeps = "insert into idempotency_keys" in statement.sql
        assert bool(changes) == (statement.kind != "read"), statement.name
        assert keeps == (statement.kind == "keyed"), statement.name


STATE = re.compile(
    r"""\b(
        set_config (?! \s* \( [^()]* , \s* true \s* \) ) | pg_(try_)?advisory_(?!xact)\w* | lastval | currval
      | pg_terminate_backend | dblink
      | (create|into) \s+ (local \s+ | global \s+)? temp(orary)? | with \s+ hold
    )\b""",
    re.VERBOSE | re.IGNORECASE,
)
COMMAND = re.compile(
    r"^\s*(set\s+(session|local|time|role|\w+(\.\w+)?\s*(=|to\b))|reset\s|listen\s|unlisten\b|notify\s|prepare\s"
    r"|deallocate\s|discard\s|declare\s|load\s|begin\s*(;|$)|start\s+transaction|create\s+temp)",
    re.IGNORECASE,
)


# What is no query: blocks that put names of tables in, each in a transaction that asks `system.found` for its answer.
BLOCKS = {"recovery.content", "recovery.sequences", "doctor.slow", "recovery.analyze"}


def test_no_statement_leaves_state_in_a_session() -> None:
    """Behind a pooler the next statement may be another client's."""
    for statement in STATEMENTS:
        sql = code(statement.sql)
        assert not STATE.search(sql), statement.name
        if statement.family not in BLOCKS:
            assert ";" not in sql, statement.name
            assert re.match(r"(with|select|insert|update|delete|analyze|vacuum)\b", sql), statement.name


def test_no_text_in_the_code_leaves_state_in_a_session() -> None:
    # On connections of their own.
    apart = {"embedded.py", "cluster.py", "supervisor.py", "migrate.py", "explain.py"}
    for path in [*(ROOT / "db").rglob("*.py"), *(ROOT / "service").rglob("*.py")]:
        if path.name not in apart:
            for text in texts(path):
                if (path.name, text) == ("transaction.py", "begin"):
                    continue  # it ends, one way or the other, before its connection goes back
                assert not COMMAND.search(text), f"{path.name}: {text!r}"
                assert not (re.match(r"\s*(select|with)\b", text) and STATE.search(text)), (
                    f"{path.name}: {text!r}"
                )


@pytest.mark.parametrize(
    "text",
    [
        "select set_config('a', 'b', false)",
        "select pg_advisory_lock(1)",
        "select pg_try_advisory_lock_shared(1)",
        "select * into temp x from y",
        "create temporary table x ()",
    ],
)
def test_state_is_recognised(text: str) -> None:
    assert STATE.search(text)
    assert not STATE.search("select pg_try_advisory_xact_lock(1), pg_advisory_xact_lock(2)")
    assert not STATE.search("select set_config('a', $1, true)")


@pytest.mark.parametrize(
    "text", ["SET timezone = 'UTC'", "set session x to 1", "listen x", "set local role to y", "BEGIN"]
)
def test_commands_are_recognised(text: str) -> None:
    assert COMMAND.search(text)
    assert not COMMAND.search("set of words to begin with")


def code(sql: str) -> str:
    """A statement without its comments and quoted texts."""
    return re.sub(r"--.*|'[^']*'", " ", sql).strip()


def texts(path: Path) -> Iterator[str]:
    """Every string in a module that is no docstring."""
    tree = ast.parse(path.read_text("utf-8"))
    spoken = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in spoken:
            yield node.value
