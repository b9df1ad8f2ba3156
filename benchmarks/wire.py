"""HTTP/1.1 as a load generator needs it: one request at a time on a kept connection, and where its answer ends."""

import asyncio
from typing import Generic, Protocol, TypeVar, cast

T = TypeVar("T")
LONGEST_HEAD = 65_536
INTERIM = 200
NO_BODY = (204, 304)
UNTIL_CLOSED = -1


class Owner(Protocol[T]):
    """Whom a connection tells."""

    def answered(self, connection: "Connection[T]", status: int) -> None: ...
    def lost(self, connection: "Connection[T]", kind: str) -> None: ...


class Connection(asyncio.Protocol, Generic[T]):
    """One place of the generator's; the same object through all its reconnections."""

    def __init__(self, owner: Owner[T]) -> None:
        self._owner = owner
        self._transport: asyncio.WriteTransport
        self._fault = ""
        self.open = False
        self.answers = 0
        self.shot: T | None = None  # what is under way
        self.since = 0.0  # when it was due
        self.body: bytearray | None = None  # of the answer, where it is kept
        self._begin()

    def send(self, shot: T, request: bytes, since: float, *, keep: bool = False) -> None:
        """Send a request; nothing else may be under way. `keep`: the body of its answer."""
        self.shot, self.since = shot, since
        self.body = bytearray() if keep else None
        self._transport.write(request)

    def abort(self) -> None:
        """Drop the connection; the owner hears that it is lost."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is none by its class
        self._fault = ""
        self._begin()
        self.open = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        if self._status and self._left == UNTIL_CLOSED and exc is None:
            self._owner.answered(self, self._status)
        self._owner.lost(self, self._fault or ("closed" if exc is None else "reset"))

    def data_received(self, data: bytes) -> None:
        if self.shot is None:  # an answer that nobody waits for
            self.abort()
            return
        try:
            beyond = data if self._status else self._head(data)
            if beyond is not None and (self._chunks(beyond) if self._chunked else self._counted(beyond)):
                self._finish()
        except ValueError:
            self._fault = "garbled"
            self.abort()

    def _begin(self) -> None:
        self._status = 0  # not known yet
        self._rest = b""  # what came and cannot be read yet
        self._left = 0  # bytes to come, of the body or the chunk
        self._chunked = self._last = self._closing = False

    def _finish(self) -> None:
        status = self._status
        if self._closing:
            self.open = False
            self._transport.close()
        self._begin()
        self._owner.answered(self, status)

    def _head(self, data: bytes) -> bytes | None:
        """Read status and length; what came beyond the head, None while it is not whole."""
        data = self._rest + data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) > LONGEST_HEAD:
                raise ValueError
            self._rest = data
            return None
        self._rest = b""
        head = data[:end].lower()
        status = int(head[9:12])
        if status < INTERIM:
            return self._head(data[end + 4 :])
        self._status = status
        self._closing = b"\r\nconnection: close" in head or head.startswith(b"http/1.0")
        at = head.find(b"\r\ncontent-length:")
        if at >= 0:
            stop = head.find(b"\r\n", at + 17)
            self._left = int(head[at + 17 : stop if stop >= 0 else end])
        elif b"\r\ntransfer-encoding: chunked" in head:
            self._chunked = True
        elif status not in NO_BODY:
            self._left = UNTIL_CLOSED
        return data[end + 4 :]

    def _counted(self, data: bytes) -> bool:
        """Take in a body of known length; whether it is whole."""
        if self.body is not None:
            self.body += data
        if self._left != UNTIL_CLOSED:
            self._left = max(0, self._left - len(data))
        return self._left == 0

    def _chunks(self, data: bytes) -> bool:
        """Take in chunks; whether the last of them is there, with its trailer."""
        data = self._rest + data
        at = 0
        while True:
            if self._left:  # of this chunk and the line end behind it
                if len(data) - at < self._left:
                    break
                if self.body is not None:
                    self.body += data[at : at + self._left - 2]
                at += self._left
                self._left = 0
            end = data.find(b"\r\n", at)
            if end < 0:
                break
            line, at = data[at:end], end + 2
            if self._last:
                if not line:
                    return True
            elif size := int(line.partition(b";")[0], 16):
                self._left = size + 2
            else:
                self._last = True
        self._rest = data[at:]
        return False
