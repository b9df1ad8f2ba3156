"""A network between the pool and PostgreSQL that can be made as bad as a real one."""

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: a close that sends RST


class Link:
    """One client's connection and the server's end of it."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.deaf = False  # what the client sends is lost
        self.mute = False  # what the server sends is lost
        self.doomed = False  # the next thing that the client sends is answered with a reset
        self.robbed = False  # the next thing that the server sends is lost, and the connection with it

    def close(self, *, reset: bool = False) -> None:
        """End both halves."""
        for writer in (self.client, self.server):
            if reset:
                with suppress(OSError):
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                writer.transport.abort()
            else:
                writer.close()


class Proxy:
    """Forwards to a server until it is told to misbehave; counts and keeps what passes from the clients."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._socket = _bound(0)
        self.port: int = self._socket.getsockname()[1]
        self.links: set[Link] = set()
        self.attempts = 0  # connections that clients asked for, without refused ones
        self.latest: Link | None = None  # whose client sent something last
        self.sent: list[bytes] = []  # what clients sent, an item for each time something came
        self.snare: tuple[bytes, Callable[[Link], object]] | None = None  # what befalls who first sends this
        self.turn_away = 0  # so many of the next connections are reset at once
        self.chaos: random.Random | None = None  # cuts packets small, delays them, resets one in a hundred

    @property
    def url(self) -> str:
        """The server's URL by way of this proxy."""
        user, _, _ = self._target.netloc.rpartition("@")
        return self._target._replace(netloc=f"{user}@127.0.0.1:{self.port}").geturl()

    @property
    def messages(self) -> list[str]:
        """The types of the messages in each of `sent`: "BES" for bind, execute, sync."""
        return [_types(data) for data in self.sent]

    @property
    def executed(self) -> int:
        """How many statements clients have sent."""
        return sum("E" in types for types in self.messages)

    async def accept(self) -> None:
        """Take connections, as it does from the start."""
        self._server = await asyncio.start_server(self._connected, sock=self._socket)

    def refuse(self) -> None:
        """Refuse connections from now on; those that are there stay. The port is kept."""
        assert self._server is not None
        self._server.close()
        self._socket = _bound(self.port)

    def stall(self) -> None:
        """Hold back everything, the end of a connection too; connections are accepted."""
        self._flowing.clear()

    def flow(self) -> None:
        """End a stall; nothing that was held back is lost."""
        self._flowing.set()

    def cut(self, *, reset: bool = False) -> None:
        """End every connection, with FIN or with RST."""
        for link in list(self.links):
            link.close(reset=reset)

    def silence(self) -> None:
        """Lose all that is sent on the connections there are, as a firewall does that has forgotten them."""
        for link in self.links:
            link.deaf = link.mute = True

    def swallow(self) -> None:
        """Lose the server's replies on the connections there are."""
        for link in self.links:
            link.mute = True

    def doom(self) -> None:
        """Reset each connection there is as soon as its client uses it, as a peer does that was restarted."""
        for link in self.links:
            link.doomed = True

    def rob(self) -> None:
        """Lose the next reply on each connection there is, and the connection: it was done, and nobody knows."""
        for link in self.links:
            link.robbed = True

    async def close(self) -> None:
        """End it all."""
        if self._server is not None:
            self._server.close()
        self._socket.close()
        self.cut(reset=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self.attempts += 1
        task = asyncio.create_task(self._serve(reader, client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        try:
            if self.turn_away:
                self.turn_away -= 1
                Link(client, client).close(reset=True)
                return
            answers, server = await asyncio.open_connection(self._target.hostname, self._target.port)
        except OSError:
            client.close()
            return
        link = Link(client, server)
        self.links.add(link)
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(link, reader, server))
                pumps.create_task(self._pump(link, answers, client))
        finally:
            link.close()
            self.links.discard(link)

    async def _pump(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upward = writer is link.server
        with suppress(OSError, RuntimeError):  # uvloop's word for a closed transport
            while data := await reader.read(65536):
                if upward:
                    self.latest = link
                    self.sent.append(data)
                    self._ensnare(link, data)
                await self._flowing.wait()
                if link.doomed if upward else link.robbed:
                    link.close(reset=True)
                elif not (link.deaf if upward else link.mute):
                    await self._forward(link, data, writer)
            await self._flowing.wait()
        if not (link.deaf or link.mute):
            link.close()

    def _ensnare(self, link: Link, data: bytes) -> None:
        if self.snare and self.snare[0] in data:
            befall, self.snare = self.snare[1], None
            befall(link)

    async def _forward(self, link: Link, data: bytes, writer: asyncio.StreamWriter) -> None:
        chaos = self.chaos
        if chaos and chaos.random() < 0.01:
            link.close(reset=True)
        elif chaos:
            await asyncio.sleep(chaos.random() * 0.005)
            at = chaos.randrange(len(data) + 1)
            writer.write(data[:at])
            await asyncio.sleep(0)
            writer.write(data[at:])
            await writer.drain()
        else:
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[Proxy]:
    """A proxy in front of the server of a URL."""
    proxy = Proxy(url)
    await proxy.accept()
    try:
        yield proxy
    finally:
        await proxy.close()


def _bound(port: int) -> socket.socket:
    """A socket that has the port but does not listen: connections are refused, and nobody else gets it."""
    it = socket.socket()
    it.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    it.bind(("127.0.0.1", port))
    return it


def _types(data: bytes) -> str:
    types = ""
    while data:
        types += chr(data[0])
        data = data[1 + int.from_bytes(data[1:5]) :]
    return types
