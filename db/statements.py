"""Named SQL statements, read from `db/sql/*.sql` when the modules that use them are imported.

A statement begins with a header of comments and ends where the next one begins:

    -- name: get
    -- kind: read
    -- takes: user_id text, sid uuid, task_id bigint
    -- rides on: tasks_pkey, sessions_pkey
    -- One live task of the caller. No row: not signed in. A row without an id: no such task.
    with {caller}
    select ...

`{word}` stands for a fragment of `fragments.sql`; `{word x}` for the same with its alias `@` read as `x`.

A header `each: scope live trash, way asc desc` makes a family of four statements, `list_live_asc` and so on. In the member
`live`, `{scope}` stands for the fragment `scope_live` and `{scope_index}` for `scope_live_index`, in the header too.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Literal, TypeAlias, cast, get_args

FOLDER = Path(__file__).parent / "sql"
Kind: TypeAlias = Literal["read", "write", "keyed"]

_FRAGMENT = re.compile(r"\{(\w+)(?: ([\w$.]+))?\}")
_HEADER = re.compile(r"^-- ?(?:(name|kind|each|takes|rides on): *)?(.*)$")


@dataclass(frozen=True, slots=True)
class Statement:
    """One named statement; `name` is "resource.verb", `sql` is what the server is sent.

    A `keyed` one is a write under an idempotency key: sent twice, it has its effect once and answers the same.
    A member of a family has its place in it, a value for each axis, behind the family's name.
    """

    name: str
    sql: str
    kind: Kind
    takes: tuple[str, ...]
    rides_on: tuple[str, ...]
    doc: str
    family: str
    member: tuple[str, ...] = ()


@cache
def load(resource: str) -> dict[str, Statement]:
    """The statements of one resource by verb; a `KeyError` at import is a typo in a name."""
    return {
        statement.name.partition(".")[2]: statement
        for verb, text in _blocks(FOLDER / f"{resource}.sql", "name").items()
        for statement in _parse(f"{resource}.{verb}", text)
    }


def family(resource: str, verb: str) -> dict[tuple[str, ...], Statement]:
    """The members of a family by their place in it."""
    return {s.member: s for s in load(resource).values() if s.family == f"{resource}.{verb}" and s.member}


def every() -> Iterator[Statement]:
    """All statements of all resources, by file and in the order of each file."""
    for path in sorted(FOLDER.glob("*.sql")):
        if path.stem != "fragments":
            yield from load(path.stem).values()


def _parse(name: str, text: str) -> Iterator[Statement]:
    """One statement, or every member of a family."""
    each = re.search(r"^-- each: *(.*)$", text, re.MULTILINE)
    axes = [axis.split() for axis in each[1].split(",")] if each else []
    for member in product(*(values for _, *values in axes)):
        place = dict(zip((axis for axis, *_ in axes), member, strict=True))
        yield _member(name, "_".join((name, *member)), member, _expand(name, text, place))


def _member(family: str, name: str, member: tuple[str, ...], text: str) -> Statement:
    header: dict[str, str] = {}
    doc: list[str] = []
    lines = text.splitlines()
    while lines and (match := _HEADER.match(lines[0])):
        key, value = match.groups()
        if key:
            header[key] = value.strip()
        else:
            doc.append(value)
        del lines[0]
    if header.get("kind") not in get_args(Kind):
        raise ValueError(f"statement {family}: its header needs 'kind: read', 'kind: write' or 'kind: keyed'")
    return Statement(
        name=name,
        sql="\n".join(lines).strip().rstrip(";"),
        kind=cast("Kind", header["kind"]),
        takes=_names(header.get("takes", "")),
        rides_on=_names(header.get("rides on", "")),
        doc=" ".join(doc).strip(),
        family=family,
        member=member,
    )


def _names(listed: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in listed.split(",") if item.strip())


def _expand(name: str, text: str, place: dict[str, str]) -> str:
    def fragment(match: re.Match[str]) -> str:
        word, alias = match.groups()
        axis, _, rest = word.partition("_")
        known = f"{axis}_{place[axis]}" + (f"_{rest}" if rest else "") if axis in place else word
        found = _fragments().get(known)
        if found is None:
            raise ValueError(f"statement {name}: there is no fragment {{{known}}} in fragments.sql")
        return found.replace("@", alias) if alias else found

    while _FRAGMENT.search(text):
        text = _FRAGMENT.sub(fragment, text)
    return text


@cache
def _fragments() -> dict[str, str]:
    return {
        word: "\n".join(line for line in text.splitlines() if not line.startswith("--")).strip()
        for word, text in _blocks(FOLDER / "fragments.sql", "fragment").items()
    }


def _blocks(path: Path, marker: str) -> dict[str, str]:
    parts = re.split(rf"^-- {marker}: *(\w+) *$\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))
