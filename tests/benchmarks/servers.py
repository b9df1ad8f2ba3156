"""A server for the generator: HTTP/1.1 on a socket, which does what its path says."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Server:
    """Answers at once, unless the path wants something else."""

    host = "127.0.0.1"
    tls = False

    def __init__(self) -> None:
        self.port = 0
        self.asked: Counter[str] = Counter()  # requests by path
        self.tokens: dict[str, int] = {}  # of each session, how often it was renewed
        self.spent = 0.0

    async def cpu(self) -> tuple[float | None, float | None]:
        """A second more at each look, and nothing of a database."""
        self.spent += 1
        return self.spent, None

    def request(self, path: str, body: bytes = b"") -> bytes:
        return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split()[1].decode()
                length = LENGTH.search(head)
                body = await reader.readexactly(int(length[1]) if length else 0)
                self.asked[path] += 1
                if not await self.answer(path, body, writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(self, path: str, body: bytes, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection goes on."""
        match path:
            case "/freeze" if self.asked[path] == 60:
                time.sleep(1)
                writer.write(answer(200))
            case "/busy":
                writer.write(answer(503))
            case "/chunked":
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwhol")
                await writer.drain()
                await asyncio.sleep(0.002)
                writer.write(b"e\r\n"[1:] + b"1\r\ne\r\n0\r\n\r\n")
            case "/goodbye":
                writer.write(answer(200, "Connection: close\r\n"))
                return False
            case "/vanish":
                return False
            case "/never":
                pass
            case "/refresh":
                writer.write(self.renewed(body.decode()))
            case _:
                writer.write(answer(200))
        return True

    def renewed(self, body: str) -> bytes:
        """The next token of a session, once."""
        name, _, number = body.split('"')[3].partition(".")
        if int(number) != self.tokens.get(name, 0):
            return answer(401)
        self.tokens[name] = int(number) + 1
        return answer(200, body=f'{{"access_token":"a","refresh_token":"{name}.{self.tokens[name]}"}}')


def answer(status: int, headers: str = "", body: str = "whole") -> bytes:
    return f"HTTP/1.1 {status} Whatever\r\ncontent-length: {len(body)}\r\n{headers}\r\n{body}".encode()


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    """A server on a free port of this loop."""
    server = Server()
    listening = await asyncio.start_server(server.talk, server.host, 0, backlog=1000)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
