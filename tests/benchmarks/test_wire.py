"""Where an answer ends, however it is cut into packets."""

import asyncio
from typing import Any, cast

import pytest

from benchmarks.wire import Connection

COUNTED = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 5\r\n\r\nwhole"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nwho\r\n2\r\nle\r\n0\r\nTrailer: 1\r\n\r\n"
)
CONTINUED = b"HTTP/1.1 100 Continue\r\n\r\n" + COUNTED
EMPTY = b"HTTP/1.1 204 No Content\r\nserver: x\r\n\r\n"
ENDLESS = b"HTTP/1.1 200 OK\r\n\r\nwhole"


class Transport:
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.ended = ""

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def abort(self) -> None:
        self.ended = "abort"

    def close(self) -> None:
        self.ended = "close"


class Owner:
    def __init__(self) -> None:
        self.told: list[object] = []

    def answered(self, connection: Connection[str], status: int) -> None:
        self.told.append((status, bytes(connection.body or b""), connection.open))
        connection.shot = None

    def lost(self, connection: Connection[str], kind: str) -> None:
        assert not connection.open
        self.told.append(kind)


def asked() -> tuple[Owner, Transport, Connection[str]]:
    """A connection with a request under way."""
    owner, transport = Owner(), Transport()
    connection = Connection[str](owner)
    connection.connection_made(cast("asyncio.BaseTransport", cast("Any", transport)))
    connection.send("shot", b"GET", 0.0, keep=True)
    assert transport.written == [b"GET"]
    return owner, transport, connection


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (COUNTED, (200, b"whole", True)),
        (CHUNKED, (200, b"whole", True)),
        (CONTINUED, (200, b"whole", True)),
        (EMPTY, (204, b"", True)),
    ],
)
def test_an_answer_ends_where_it_says(answer: bytes, told: object, size: int) -> None:
    owner, transport, connection = asked()
    for at in range(0, len(answer), size):
        assert owner.told == []
        connection.data_received(answer[at : at + size])
    assert owner.told == [told]
    assert transport.ended == ""


def test_a_server_that_means_to_close_is_not_asked_again() -> None:
    owner, transport, connection = asked()
    connection.data_received(COUNTED.replace(b"Server: x", b"Connection: close"))
    assert owner.told == [(200, b"whole", False)]
    assert transport.ended == "close"


def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    owner, _, connection = asked()
    connection.data_received(ENDLESS)
    assert owner.told == []
    connection.connection_lost(None)
    assert owner.told == [(200, b"whole", False), "closed"]


@pytest.mark.parametrize("answer", [b"HTTP/1.1 2x0 OK\r\n\r\n", CHUNKED.replace(b"3;", b"z;"), b"x" * 70_000])
def test_what_is_no_answer_ends_the_connection(answer: bytes) -> None:
    owner, transport, connection = asked()
    connection.data_received(answer)
    assert transport.ended == "abort"
    connection.connection_lost(None)
    assert owner.told == ["garbled"]


def test_an_answer_that_nobody_waits_for_ends_the_connection() -> None:
    owner, transport, connection = asked()
    connection.data_received(COUNTED)
    connection.data_received(COUNTED)
    assert transport.ended == "abort"
    connection.connection_lost(ConnectionResetError())
    assert owner.told == [(200, b"whole", True), "reset"]
