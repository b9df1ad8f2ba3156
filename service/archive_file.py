"""The file of an archive: gzipped NDJSON. A header, the users, each with their tasks behind them, and a seal.

{"type":"archive","data":{"version":1,"created_at":"...","completed_before":"...","schema":"0004"}}
{"type":"user","data":{"id":"...","email":"..."}}
{"type":"task","data":{"id":1,"user_id":"...","title":"...", ...}}
{"type":"seal","data":{"users":1,"tasks":1,"sha256":"of every byte before this line"}}
"""

import gzip
import hashlib
import os
import tempfile
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from db.archive import Task
from db.types import Instant

VERSION: Final = 1


class ArchiveError(Exception):
    """A file that is no archive, or not a whole one."""


class Header(msgspec.Struct):
    """What the archive is of."""

    version: int
    created_at: Instant
    completed_before: Instant
    schema: str


class User(msgspec.Struct):
    """Whose the tasks behind it are."""

    id: str
    email: str


class Seal(msgspec.Struct):
    """What an archive is checked against."""

    users: int
    tasks: int
    sha256: str


class HeaderLine(msgspec.Struct, tag_field="type", tag="archive"):
    """The first line."""

    data: Header


class UserLine(msgspec.Struct, tag_field="type", tag="user"):
    """A line of a user."""

    data: User


class TaskLine(msgspec.Struct, tag_field="type", tag="task"):
    """A line of a task."""

    data: Task


class SealLine(msgspec.Struct, tag_field="type", tag="seal"):
    """The last line."""

    data: Seal


Line: TypeAlias = HeaderLine | UserLine | TaskLine | SealLine
_ENCODER = msgspec.json.Encoder()
_DECODER: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)


class _Tally:
    """Counts lines, and sees that tasks stand behind their user."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._users = self._tasks = 0
        self.user: str | None = None

    def take(self, line: Line, text: bytes) -> None:
        if isinstance(line, UserLine):
            self._users += 1
            self.user = line.data.id
        elif isinstance(line, TaskLine):
            self._tasks += 1
            if line.data.user_id != self.user:
                raise ArchiveError(f"task {line.data.id} does not stand behind its user")
        self._digest.update(text)

    def seal(self) -> Seal:
        return Seal(self._users, self._tasks, self._digest.hexdigest())


class Writer:
    """Writes an archive line by line."""

    def __init__(self, file: gzip.GzipFile, header: Header) -> None:
        self._file = file
        self._tally = _Tally()
        self._write(HeaderLine(header))

    def add(self, email: str, task: Task) -> None:
        """Write a task; those of a user follow each other."""
        if task.user_id != self._tally.user:
            self._write(UserLine(User(task.user_id, email)))
        self._write(TaskLine(task))

    def seal(self) -> Seal:
        """Write the last line."""
        seal = self._tally.seal()
        self._write(SealLine(seal))
        return seal

    def _write(self, line: Line) -> None:
        text = _ENCODER.encode(line) + b"\n"
        self._tally.take(line, text)
        self._file.write(text)


def verify(path: Path) -> Seal:
    """Read an archive to its end, past everything that could be wrong with it. Raises `ArchiveError`."""
    *_, last = deque(_lines(path), maxlen=1)
    assert isinstance(last, SealLine)
    return last.data


def read(path: Path) -> Iterator[tuple[User, Task]]:
    """The tasks of an archive with their users. Raises `ArchiveError`, at the latest behind the last."""
    user = User("", "")
    for line in _lines(path):
        if isinstance(line, UserLine):
            user = line.data
        elif isinstance(line, TaskLine):
            yield user, line.data


def _lines(path: Path) -> Iterator[Line]:
    tally = _Tally()
    line: Line | None = None
    try:
        with gzip.open(path) as file:
            for text in file:
                if isinstance(line, SealLine):
                    raise ArchiveError("it goes on behind its seal")
                line = _line(text, first=line is None)
                if isinstance(line, SealLine) and line.data != tally.seal():
                    raise ArchiveError("it is not what was sealed: somebody or something has changed it")
                tally.take(line, text)
                yield line
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        raise ArchiveError(f"it is no archive, or a damaged one: {error}") from error
    if not isinstance(line, SealLine):
        raise ArchiveError("its end is missing")


def _line(text: bytes, *, first: bool) -> Line:
    line = _DECODER.decode(text)
    if isinstance(line, HeaderLine) != first:
        raise ArchiveError("its header is not its first line")
    if isinstance(line, HeaderLine) and line.data.version != VERSION:
        raise ArchiveError(
            f"its format is {line.data.version}, and this version of Roundtrip reads {VERSION}"
        )
    return line


@contextmanager
def draft(target: Path) -> Iterator[Path]:
    """A file beside the target while it is being written; it is gone in the end."""
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


@contextmanager
def written(path: Path) -> Iterator[gzip.GzipFile]:
    """The compressed content of a file, on the disk when the block ends."""
    with path.open("wb") as file:
        with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=6, filename="") as content:
            yield content
        file.flush()
        os.fsync(file.fileno())


def publish(draft: Path, target: Path) -> None:
    """Give a draft its name, on the disk. Raises `FileExistsError`: nothing is ever replaced."""
    os.link(draft, target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
