"""A relay that costs little and answers late: each burst of replies leaves `DELAY` seconds after what it answers.

It offers PIPELINING; a group that came in one piece is answered in one piece, as over a line with that round-trip time.
It takes everything, keeps nothing, and prints how many messages it took, in smtp-sink's way, when that changed.

    python -m tests.bench.relay PORT DELAY
"""

import asyncio
import sys
from collections import deque
from collections.abc import Callable
from typing import cast

_END = b"\r\n.\r\n"
_HELLO = b"250-bench\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250 SMTPUTF8\r\n"
_OK = b"250 2.0.0 Ok\r\n"
#: Seconds between two prints of the counter.
_PRINT_EVERY = 0.002


class Session(asyncio.Protocol):
    """One connection. `count` is told of each message."""

    def __init__(self, delay: float, count: Callable[[], None]) -> None:
        self._delay = delay
        self._count = count
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._in_body = False
        self._replies: deque[bytes] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self._transport.write(b"220 bench ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        replies = []
        self._buffer += data
        while True:
            if self._in_body:
                end = self._buffer.find(_END)
                if end < 0:
                    # Of a body only what may be the beginning of its end is kept.
                    self._buffer = self._buffer[-len(_END) + 1 :]
                    break
                self._buffer = self._buffer[end + len(_END) :]
                self._in_body = False
                self._count()
                replies.append(_OK)
                continue
            line, found, rest = self._buffer.partition(b"\r\n")
            if not found:
                break
            self._buffer = rest
            replies.append(self._answer(line[:4].upper()))
        if replies:
            self._send(b"".join(replies))

    def _answer(self, verb: bytes) -> bytes:
        if verb == b"DATA":
            self._in_body = True
            self._buffer = b"\r\n" + self._buffer  # a body may be nothing but the dot
            return b"354 End with a dot\r\n"
        if verb == b"EHLO":
            return _HELLO
        if verb == b"QUIT":
            self._loop.call_later(self._delay + 0.01, self._transport.close)
            return b"221 2.0.0 Bye\r\n"
        return _OK

    def _send(self, replies: bytes) -> None:
        if not self._delay:
            self._transport.write(replies)
            return
        self._replies.append(replies)
        self._loop.call_later(self._delay, self._flush)

    def _flush(self) -> None:
        # One timer a burst; whichever fires first, the oldest burst goes first.
        self._transport.write(self._replies.popleft())


async def serve(port: int, delay: float) -> None:
    """Serve until killed."""
    accepted = 0

    def count() -> None:
        nonlocal accepted
        accepted += 1

    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Session(delay, count), "127.0.0.1", port, backlog=1000)
    async with server:
        printed = 0
        while True:
            await asyncio.sleep(_PRINT_EVERY)
            if accepted != printed:
                printed = accepted
                sys.stdout.write(f"mesg={printed}\r")
                sys.stdout.flush()


def main(arguments: list[str]) -> None:
    """See the module."""
    try:
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] | None = uvloop.new_event_loop
    except ImportError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(int(arguments[0]), float(arguments[1])))


if __name__ == "__main__":
    main(sys.argv[1:])
