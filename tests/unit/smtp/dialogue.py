"""A session on a real socket, against a peer that the test plays line by line."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import cast

import pytest

from spoold.smtp.relay import Timeouts
from spoold.smtp.session import Envelope, Session, Transaction
from tests.servers.certificate import Authority

HOST = "127.0.0.1"
QUICK = Timeouts(connect=0.3, command=0.3, data=0.3, final=0.3)
PIPELINING = {"pipelining": "", "8bitmime": "", "smtputf8": "", "size": "100000000"}
ONE_BY_ONE = {"8bitmime": "", "smtputf8": "", "size": "100000000"}
BODY = b"Subject: x\r\n\r\nHello\r\n"
LARGE = 12_000_000
#: How a connection is lost, see `Peer.leave`.
WAYS = ("close", "reset", "silence", "garbage")
both_ways = pytest.mark.parametrize("extensions", [PIPELINING, ONE_BY_ONE], ids=["pipelining", "one by one"])


class Peer:
    """The server's end of one connection, in the hands of the test. `lines` are the commands that came."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.lines: list[str] = []

    async def line(self) -> str:
        line = (await self.reader.readuntil(b"\r\n")).decode().removesuffix("\r\n")
        self.lines.append(line)
        return line

    def say(self, *replies: str) -> None:
        self.writer.write("".join(f"{reply}\r\n" for reply in replies).encode())

    async def answer(self, *replies: str) -> None:
        """One command, one reply, as often as there are replies."""
        for reply in replies:
            await self.line()
            self.say(reply)

    async def data(self) -> bytes:
        """Everything up to the final dot, as it is on the wire, without it."""
        return (await self.reader.readuntil(b"\r\n.\r\n"))[:-3]

    async def message(self) -> bytes:
        """A message to one recipient, up to the final dot, whose answer is still to come."""
        await self.answer("250 Ok", "250 Ok", "354 go")
        return await self.data()

    async def take(self, reply: str = "250 2.0.0 Ok") -> bytes:
        """A message to one recipient, with this answer to its dot."""
        found = await self.message()
        self.say(reply)
        return found

    async def stop_at_data(self) -> None:
        """A message to one recipient is asked for and not read: what can leave fills the kernel's buffers."""
        await self.answer("250 Ok", "250 Ok")
        await self.line()
        self.pause()
        self.say("354 go")

    async def end(self) -> None:
        """Wait until the client has gone."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self.line():
                pass

    def pause(self) -> None:
        """Read no more: what the client sends stays in the sockets, and then with it."""
        cast("asyncio.Transport", self.writer.transport).pause_reading()

    def reset(self) -> None:
        self.writer.transport.abort()

    async def leave(self, way: str, words: str = "") -> None:
        """End the connection in this one of WAYS; with `words` in those in which something is said."""
        match way:
            case "close":
                self.writer.close()
            case "reset":
                self.reset()
            case "silence":
                await self.end()
            case _:
                self.say(words)
                await self.end()


Play = Callable[[Peer], Awaitable[None]]


@contextlib.asynccontextmanager
async def session_with(
    play: Play,
    extensions: dict[str, str] = PIPELINING,
    *,
    timeouts: Timeouts = QUICK,
    tls: Authority | None = None,
) -> AsyncIterator[Session]:
    """A session whose other end `play` plays; what the peer raises comes out here. Kernel buffers are small."""
    played: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await play(Peer(reader, writer))
            played.set_result(None)
        except BaseException as error:  # the test's own, it is raised below
            played.set_exception(error)
        finally:
            writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    listener.bind((HOST, 0))
    context = tls.valid.context() if tls else None
    server = await asyncio.start_server(serve, sock=listener, ssl=context)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, listener.getsockname())
    transport, _ = await loop.create_connection(
        asyncio.Protocol,
        sock=client,
        ssl=tls.client_context() if tls else None,
        server_hostname=HOST if tls else None,
    )
    session = Session(transport, extensions, HOST, timeouts)
    try:
        yield session
        await session.close()
        async with asyncio.timeout(5):
            await played
    finally:
        if not session._closed.done():
            transport.abort()
        await session._closed
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0.01)  # the transports' own last callbacks


async def gone(session: Session) -> None:
    """Wait until the session knows that its connection has ended."""
    async with asyncio.timeout(5):
        while session.usable:
            await asyncio.sleep(0.01)


def envelope(*recipients: str, size: int = len(BODY), eight_bit: bool = False, smtputf8: bool = False) -> Envelope:
    return Envelope("news@example.com", recipients or ("ada@one.example",), size, eight_bit, smtputf8)


def results(transaction: Transaction) -> list[str]:
    assert transaction.bug is None
    return [outcome.result.value for outcome in transaction.outcomes]


async def pieces(parts: Iterable[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def large() -> AsyncIterator[bytes]:
    return pieces([b"x" * 62 + b"\r\n"] * (LARGE // 64))
