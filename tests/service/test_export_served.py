"""The export from a server, over sockets: a reader who does not read, one who goes, and a body that stops short."""

import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from db.url import parse
from tests.service.accounts import AUTH, fresh
from tests.service.served import Served, served
from tests.service.test_export import PATH, TASKS
from tests.service.test_serve import eventually

NUMBER = 20_000  # tasks, together much longer than what sockets keep
NARROW = (socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)


def in_flight(running: Served) -> int:
    """Requests under way beside the one that asks."""
    text = httpx.get(f"{running.base}/metrics").text
    (line,) = (line for line in text.splitlines() if line.startswith("roundtrip_requests_in_flight "))
    return int(float(line.split()[1])) - 1


async def test_a_server_keeps_to_its_readers_pace(tmp_path: Path, migrated_database: str) -> None:
    settings = {"DATABASE_URL": migrated_database, "DATABASE_POOL_SIZE": "1", "RATE_LIMITS": "off"}
    narrow = httpx.HTTPTransport(socket_options=[NARROW])
    with (
        served(tmp_path, **settings) as running,
        httpx.Client(base_url=running.base, transport=narrow) as client,
    ):
        body = {"email": fresh(), "password": "correct horse battery"}
        tokens = client.post(f"{AUTH}/register", json=body).json()
        headers = {"Authorization": f"Bearer {tokens['access_token']}"}
        connection = await asyncpg.connect(**parse(migrated_database).kwargs())
        await connection.execute(
            "insert into tasks (user_id, title, description)"
            " select $1, 'task', repeat('words ', 150) from generate_series(1, $2::int)",
            tokens["user"]["id"],
            NUMBER,
        )
        await connection.close()

        whole = client.get(PATH, headers=headers)
        assert (whole.status_code, whole.headers["transfer-encoding"]) == (200, "chunked")
        assert whole.text.count("\n") == NUMBER + 1
        head = client.head(PATH, headers=headers)
        assert (head.status_code, head.content, in_flight(running)) == (200, b"", 0)

        address = urlsplit(running.base)
        with socket.socket() as idle:
            idle.setsockopt(*NARROW)
            idle.connect((address.hostname, address.port))
            request = (
                f"GET {PATH} HTTP/1.1\r\nHost: test\r\nAuthorization: {headers['Authorization']}\r\n\r\n"
            )
            idle.sendall(request.encode())
            assert idle.recv(15) == b"HTTP/1.1 200 OK"
            for _ in range(10):  # on the one connection that there is
                assert client.get(TASKS, headers=headers).status_code == 200
                time.sleep(0.1)
            assert in_flight(running) == 1
        assert eventually(lambda: in_flight(running) == 0)

        with client.stream("GET", PATH, headers=headers) as cut:
            chunks = cut.iter_raw()
            assert next(chunks).startswith(b'{"type":"user"')
            assert httpx.post(f"{running.base}{AUTH}/logout", headers=headers).status_code == 204
            with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
                for _ in chunks:
                    pass
        assert eventually(lambda: in_flight(running) == 0)
        assert "stream cut short" in running.output
        assert "Traceback" not in running.output
        assert running.stop() == 0
