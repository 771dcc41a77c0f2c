"""A bare pipelined SMTP client with nothing behind it: no queue, no database, no reports. What it does is the most there is.

MAIL, RCPT…, DATA go behind the dot of the body before them: one round trip a message. Every reply's code is looked at. As
many connections as told, on uvloop where it is installed. A body is made once and sent again and again, or, with a
FOLDER, read from the file `N.eml` in it, N from 0: the same work on a message's bytes as any client has.

    python -m tests.bench.bare PORT MESSAGES SIZE CONNECTIONS RECIPIENTS [FOLDER]
"""

import asyncio
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast


@dataclass(frozen=True, slots=True)
class Bare:
    """One run: messages a second, and CPU seconds a message."""

    rate: float
    cpu: float


def run(port: int, messages: int, size: int, connections: int, recipients: int = 1, folder: Path | None = None) -> Bare:
    """Send `messages` of `size` bytes to so many `recipients` each, in a process of its own."""
    numbers = map(str, (port, messages, size, connections, recipients))
    command = [sys.executable, "-m", "tests.bench.bare", *numbers, *([str(folder)] if folder else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    seconds, used = map(float, done.stdout.split())
    return Bare(messages / seconds, used / messages)


@dataclass(frozen=True, slots=True)
class _Message:
    envelope: bytes
    body: bytes


class _Client(asyncio.Protocol):
    """`more` gives the next message, None when there is none."""

    def __init__(self, more: Callable[[], _Message | None], recipients: int) -> None:
        self._more = more
        self._group = [b"2"] * (recipients + 1) + [b"3"]
        self._expected = deque([b"2"])
        self._buffer = b""
        self._body = b""
        self._step: Callable[[], None] = self._hello
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(error or ConnectionError("the relay closed the connection"))

    def data_received(self, data: bytes) -> None:
        *lines, self._buffer = (self._buffer + data).split(b"\r\n")
        expected = self._expected
        for line in lines:
            if line[3:4] == b"-":
                continue
            if not expected or line[:1] != expected.popleft():
                self._fail(ConnectionError(f"unexpected reply {line!r}"))
                self._transport.close()
                return
        if not expected:
            self._step()

    def _fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    def _hello(self) -> None:
        self._step = self._next
        self._expected.append(b"2")
        self._transport.write(b"EHLO bench\r\n")

    def _next(self) -> None:
        """The replies to the last dot (where there was one) and to the group behind it are here."""
        last, message = self._body, self._more()
        if message is None and not last:
            self.done.set_result(None)
            self._transport.close()
            return
        if last:
            self._expected.append(b"2")
        if message is None:
            self._body = b""
            self._transport.write(last)
        else:
            self._body = message.body
            self._expected.extend(self._group)
            self._transport.write(last + message.envelope)


def _from_file(path: str) -> bytes:
    with open(path, "rb") as file:
        data = file.read().replace(b"\n", b"\r\n")
    return data.replace(b"\r\n.", b"\r\n..") + b".\r\n"


async def _send(port: int, messages: int, size: int, connections: int, recipients: int, folder: str | None) -> float:
    numbers = iter(range(messages))
    same = b"Subject: bench\r\n\r\n" + (b"y" * 70 + b"\r\n") * (size // 72) + b".\r\n"

    def more() -> _Message | None:
        number = next(numbers, None)
        if number is None:
            return None
        to = b"".join(b"RCPT TO:<u%d-%d@example.org>\r\n" % (number, each) for each in range(recipients))
        body = same if folder is None else _from_file(f"{folder}/{number}.eml")
        return _Message(b"MAIL FROM:<news@example.com>\r\n" + to + b"DATA\r\n", body)

    loop = asyncio.get_running_loop()
    begun = time.perf_counter()
    clients = []
    for _ in range(connections):
        _, client = await loop.create_connection(lambda: _Client(more, recipients), "127.0.0.1", port)
        clients.append(client.done)
    await asyncio.gather(*clients)
    return time.perf_counter() - begun


def main(arguments: list[str]) -> None:
    """Prints seconds and CPU seconds."""
    port, messages, size, connections, recipients = map(int, arguments[:5])
    folder = arguments[5] if len(arguments) > 5 else None
    try:
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] | None = uvloop.new_event_loop
    except ImportError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        used = time.process_time()
        seconds = runner.run(_send(port, messages, size, connections, recipients, folder))
        print(seconds, time.process_time() - used)


if __name__ == "__main__":
    main(sys.argv[1:])
