"""A backup file: what pg_dump wrote, then what was true of the database at that moment, then a seal over both.

    dump        pg_dump's custom format; pg_restore reads it from the front and takes no notice of what follows
    manifest    JSON
    seal        the length of the manifest (8 bytes), the SHA-256 of everything before it (32), MAGIC (8)

One file can be neither separated nor half replaced, and in an emergency a plain pg_restore will do.
"""

import hashlib
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import msgspec

MAGIC = b"RNDTRIP1"
LENGTH, DIGEST = 8, 32
SEAL = LENGTH + DIGEST + len(MAGIC)
CHUNK = 1 << 20


class NoBackup(Exception):
    """A file that is no backup, or no longer one; the text says why."""


class Content(msgspec.Struct):
    """How many rows a table has, and a digest of them that is the same in any order."""

    table: str
    rows: int
    digest: str


class Manifest(msgspec.Struct):
    """What was true in the snapshot that was dumped."""

    taken_at: datetime
    database: str
    schema: str
    roundtrip: str
    server: str
    pg_dump: str
    tables: Sequence[Content]
    objects: Sequence[str]  # "index tasks_pkey" and so on: what a database must have besides rows

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.tables)


def seal(path: Path, manifest: Manifest) -> None:
    """Complete a dump, and have it on the disk."""
    text = msgspec.json.encode(manifest)
    with path.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(text + len(text).to_bytes(LENGTH))
        size = file.tell()
        file.write(_digest(file, size) + MAGIC)
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> Manifest:
    """What a backup says of itself, after reading all of it. Raises `NoBackup` where a byte of it is not as it was."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - SEAL))
        tail = file.read()
        if len(tail) < SEAL or not tail.endswith(MAGIC):
            raise NoBackup("it does not end as a backup does: it is none, or was cut short")
        length = int.from_bytes(tail[:LENGTH])
        if _digest(file, size - SEAL + LENGTH) != tail[LENGTH : -len(MAGIC)]:
            raise NoBackup("it is damaged: what is in it is not what was written")
        file.seek(size - SEAL - length)
        try:
            return msgspec.json.decode(file.read(length), type=Manifest)
        except msgspec.MsgspecError as error:
            raise NoBackup(f"its manifest is not one that this version reads: {error}") from None


def _digest(file: BinaryIO, size: int) -> bytes:
    """Of the first `size` bytes."""
    file.seek(0)
    digest = hashlib.sha256()
    while size and (chunk := file.read(min(CHUNK, size))):
        digest.update(chunk)
        size -= len(chunk)
    return digest.digest()
