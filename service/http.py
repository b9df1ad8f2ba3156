"""HTTP/1.1: uvicorn's, with the lean path before its parser, and bounds that it does not have.

A plain request that came whole, alone, and in one piece is answered here; every other one goes to uvicorn byte for byte.
"""

from functools import lru_cache
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.edge import Edge
from service.errors import Problem

MAX_HEAD = 64 * 1024  # bytes, request line included


class Http(HttpToolsProtocol):
    """One connection."""

    app: Edge

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._since = self.loop.time()  # when it was opened, or its last request answered
        self._alarm = self.loop.call_later(self.timeout_keep_alive, self._look)
        self._in_head = self._in_request = False  # of a request that the parser has
        self._head_size = 0
        self._begun = b""  # a plain request whose body is not whole
        self._answering = False  # a plain request
        self._later = b""  # what came meanwhile
        self._full = False  # the client has not taken its answer yet
        self._ending = False

    def data_received(self, data: bytes) -> None:
        if self._answering:
            self._later += data
            self.flow.pause_reading()
        elif self._in_request or self._cycle_runs():
            self._parse(data)
        else:
            self._begin(self._begun + data)

    def _cycle_runs(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _begin(self, data: bytes) -> None:
        """Take a request that is plain; any other is the parser's."""
        call = self.app.lean.take(data)
        self._begun = data if call == "more" else b""
        if call is None:
            self._parse(data)
        elif call != "more":
            self._unset_keepalive_if_required()
            self._answering = True
            self.app.plain(call, self.client, self._finish)

    def _finish(self, status: int, rest: bytes) -> None:
        """Write the answer to a plain request."""
        if self.transport.is_closing():
            return
        self._write(status, rest, b"connection: close\r\n" if self._ending else b"")
        if self.flow.write_paused:
            self._full = True
        else:
            self._go_on()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._full:
            self._full = False
            self._go_on()

    def _go_on(self) -> None:
        """Turn to what came meanwhile: the client has taken its answer."""
        self._since = self.loop.time()
        self._answering = False
        if self._ending:
            self.transport.close()
        elif self._later:
            later, self._later = self._later, b""
            self.flow.resume_reading()
            self.data_received(later)

    def _write(self, status: int, rest: bytes, more: bytes) -> None:
        common = _lines(tuple(self.server_state.default_headers))
        self.transport.write(b"".join((STATUS_LINE[status], common, more, rest)))

    # What uvicorn's parser reads

    def _parse(self, data: bytes) -> None:
        if self._in_head:
            self._head_size += len(data)
            if self._head_size > MAX_HEAD:
                self._refuse(431, f"The request's head is longer than {MAX_HEAD} bytes.")
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        self._in_head = self._in_request = True
        self._head_size = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_request = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._since = self.loop.time()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 (uvicorn's word for it)
        self._refuse(400, "The request is not HTTP/1.1.")

    def _refuse(self, status: int, detail: str) -> None:
        """Answer what cannot be read, and close."""
        self._write(*self.app.refusal(Problem(status, detail)), b"connection: close\r\n")
        self.transport.close()

    # The end

    def shutdown(self) -> None:
        """End: at once where nothing is under way, else after the answer."""
        if self._answering:
            self._ending = True
            return
        if self._begun:
            self._parse(self._begun)
        super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        self._alarm.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        """Close where nothing is being answered and no request was whole for too long; else come back when it may be."""
        left = self._since + self.timeout_keep_alive - self.loop.time()
        if self._answering or (self._cycle_runs() and not self._in_request):
            left = self.timeout_keep_alive
        if left > 0:
            self._alarm = self.loop.call_later(left, self._look)
        else:
            self.transport.close()


@lru_cache(1)
def _lines(headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    """Header lines of every answer: Date, for a second the same."""
    return b"".join(b"%b: %b\r\n" % header for header in headers)
