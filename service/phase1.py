"""The files of the console app: its `dict[str, Todo]` as JSON or as CSV, read in pieces (docs/PHASE1.md)."""

import csv
import json
import re
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, TextIO, TypeAlias

from db.imports import Import
from service.settings import Settings

Format: TypeAlias = Literal["csv", "json"]
# A key, its todo (fields as pairs, since a name may stand there twice; anything else is a fault), its line in CSV.
Entry: TypeAlias = tuple[str, Any, int | None]

ENCODING = "utf-8-sig"
ERRORS = "surrogateescape"  # what is not UTF-8 becomes half a surrogate pair, which is named
FIELDS = ("title", "description", "completed")
KNOWN = frozenset(FIELDS)
COLUMNS = ("key", *FIELDS)
KEY_MAX = 255
UNFIT = "must not contain a NUL, half a surrogate pair or bytes that are not UTF-8"
AHEAD = 1 << 18  # characters of JSON at hand, so also those that a key with its todo may have
WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_SPACE = re.compile(r"[ \t\n\r]*")
_UNFIT = re.compile("[\x00\ud800-\udfff]")


class Bad(NamedTuple):
    """What cannot be imported: where it stands, and why not."""

    where: str
    why: str


class _Malformed(Exception):
    """What comes after it cannot be read."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(where, why)
        self.bad = Bad(where, why)


def read(file: TextIO, format: Format, settings: Settings) -> Iterator[Import | Bad]:
    """The todos as the tasks they become, or each reason why one cannot, in the order of the file.

    Of what was read only the keys stay in memory.
    """
    seen: set[str] = set()
    try:
        for entry in _csv(file) if format == "csv" else _json(file):
            if isinstance(entry, Bad):
                yield entry
                continue
            key, value, line = entry
            faults = [*_key_faults(key, seen), *_faults(value, settings)]
            if len(key) <= KEY_MAX:
                seen.add(key)
            if faults:
                where = f"line {line}" if line else f"key {_shown(key)}"
                yield from (Bad(where, why) for why in faults)
            else:
                fields = dict(value)
                description, completed = fields.get("description") or None, fields.get("completed", False)
                yield Import(key, fields["title"].strip(), description, completed)
    except _Malformed as error:
        yield error.bad


def _key_faults(key: str, seen: set[str]) -> Iterator[str]:
    if key in seen:
        yield "key: an earlier todo has it"
    if not 1 <= len(key) <= KEY_MAX:
        yield f"key: must have 1 to {KEY_MAX} characters"
    if _UNFIT.search(key):
        yield f"key: {UNFIT}"


def _faults(value: Any, settings: Settings) -> Iterator[str]:
    if not isinstance(value, tuple):
        yield "must be an object"
        return
    fields = dict(value)
    if len(fields) < len(value) or not fields.keys() <= KNOWN:
        yield from _names([name for name, _ in value], FIELDS)
    if "title" not in fields:
        yield "title: is required"
    for name, field in fields.items():
        if name in KNOWN:
            yield from (f"{name}: {why}" for why in _field_faults(name, field, settings))


def _field_faults(name: str, field: Any, settings: Settings) -> Iterator[str]:
    if name == "completed":
        if not isinstance(field, bool):
            yield "must be true or false, in CSV also 1, 0, yes or no"
    elif not isinstance(field, str):
        if name == "title" or field is not None:
            yield "must be a string"
    elif name == "title" and not 1 <= len(field.strip()) <= settings.title_max_length:
        yield f"must have 1 to {settings.title_max_length} characters after trimming"
    elif name == "description" and len(field) > settings.description_max_length:
        yield f"must have {settings.description_max_length} characters at most"
    if isinstance(field, str) and _UNFIT.search(field):
        yield UNFIT


def _names(names: list[str], known: tuple[str, ...]) -> Iterator[str]:
    """What is wrong with the names of fields or columns."""
    for name in dict.fromkeys(names):
        if name not in known:
            yield f"{_shown(name)}: is not known here; known are {', '.join(known)}"
        elif names.count(name) > 1:
            yield f"{name}: stands there twice"


def _shown(text: str) -> str:
    """A text from the file in a line of ours: quoted, cut, without control characters."""
    return json.dumps(text[:100], ensure_ascii=not text.isprintable()) + ("..." if len(text) > 100 else "")  # noqa: PLR2004


def _csv(file: TextIO) -> Iterator[Entry | Bad]:
    """RFC 4180 with a header; a line that is no CSV is passed over."""
    rows = csv.reader(file, strict=True)
    header: list[str] = []
    while True:
        line = rows.line_num + 1
        try:
            row = next(rows, None)
        except csv.Error as error:
            yield Bad(f"line {line}", f"is not CSV: {error}")
            continue
        if not header:
            header = row or []
            if faults := [*_header_faults(header)]:
                yield from (Bad(f"line {line}", why) for why in faults)
                return
        elif row is None:
            return
        elif row and len(row) != len(header):
            yield Bad(f"line {line}", f"has {len(row)} fields, the header has {len(header)}")
        elif row:
            fields = [(name, _cell(name, text)) for name, text in zip(header, row, strict=True)]
            key_at = header.index("key")
            yield row[key_at], (*fields[:key_at], *fields[key_at + 1 :]), line


def _header_faults(header: list[str]) -> Iterator[str]:
    yield from _names(header, COLUMNS)
    yield from (f"{name}: is missing in the header" for name in ("key", "title") if name not in header)


def _cell(name: str, text: str) -> str | bool:
    return WORDS.get(text.strip().lower(), text) if name == "completed" else text


def _json(file: TextIO) -> Iterator[Entry]:
    """An object of todos by key, however its text is laid out."""
    text = _Text(file)
    text.take("{")
    more = text.next() != "}"
    while more:
        if text.next() != '"':
            raise text.wrong("expecting a key in double quotes")
        key = text.value()
        text.take(":")
        yield key, text.value(), None
        if more := text.next() == ",":
            text.take(",")
    text.take("}", "a comma or }")
    if text.next():
        raise text.wrong("expecting nothing after the object")


class _Text:
    """JSON of which a part is at hand: what one todo needs, and not much more."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._text, self._at = "", 0
        self._before = self._lines = 0  # characters and lines that are no longer at hand
        self._over = False
        self._decode = json.JSONDecoder(object_pairs_hook=tuple, parse_int=float).raw_decode

    def next(self) -> str:
        """Go to what is no white space; the character there, none at the end."""
        while True:
            space = _SPACE.match(self._text, self._at)
            assert space
            self._at = space.end()
            if self._over or len(self._text) - self._at >= AHEAD:
                return self._text[self._at : self._at + 1]
            self._more()

    def take(self, wanted: str, told: str = "") -> None:
        """Go past a character that must come now."""
        if self.next() != wanted:
            raise self.wrong(f"expecting {told or wanted}")
        self._at += 1

    def value(self) -> Any:
        """Go past the value that must come now; an object is a tuple of pairs."""
        self.next()
        try:
            value, self._at = self._decode(self._text, self._at)
        except json.JSONDecodeError as error:
            self._at = error.pos
            more = "" if self._over else f", or a todo has more than {AHEAD:,} characters"
            raise self.wrong(error.msg.lower().removesuffix(" at") + more) from None
        except RecursionError:
            raise self.wrong("nested too deep") from None
        return value

    def wrong(self, why: str) -> _Malformed:
        """The error of this place."""
        line = self._lines + self._text.count("\n", 0, self._at) + 1
        return _Malformed(
            f"line {line}, character {self._before + self._at + 1} of the file", f"is not JSON: {why}"
        )

    def _more(self) -> None:
        piece = self._file.read(AHEAD)
        self._over = len(piece) < AHEAD
        self._before += self._at
        self._lines += self._text.count("\n", 0, self._at)
        self._text, self._at = self._text[self._at :] + piece, 0
