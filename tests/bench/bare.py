"""A bare pipelined SMTP client with nothing behind it: no queue, no database, no reports. What it does is the most there is.

One group MAIL, RCPT, DATA a message, the body when 354 has come; as many connections as told, on uvloop where it is installed.

    python -m tests.bench.bare PORT MESSAGES SIZE CONNECTIONS
"""

import asyncio
import sys
import time
from collections.abc import Callable


class _Client(asyncio.Protocol):
    def __init__(self, more: Callable[[], int | None], body: bytes) -> None:
        self._more = more
        self._body = body
        self._expect = 0
        self._stage = "greeting"
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        lines = [line for line in data.split(b"\r\n") if line and line[3:4] != b"-"]
        for _ in lines:
            self._line()

    def _line(self) -> None:
        write = self._transport.write  # type: ignore[attr-defined]
        if self._stage == "greeting":
            self._stage = "ehlo"
            write(b"EHLO bench\r\n")
        elif self._stage in ("ehlo", "dot"):
            number = self._more()
            if number is None:
                self._transport.close()  # type: ignore[attr-defined]
                self.done.set_result(None)
                return
            self._stage, self._expect = "envelope", 3
            write(b"MAIL FROM:<a@example.com>\r\nRCPT TO:<u%d@example.org>\r\nDATA\r\n" % number)
        else:
            self._expect -= 1
            if not self._expect:
                self._stage = "dot"
                write(self._body)


async def _run(port: int, messages: int, size: int, connections: int) -> float:
    numbers = iter(range(messages))
    body = b"Subject: bench\r\n\r\n" + (b"y" * 70 + b"\r\n") * (size // 72) + b".\r\n"
    loop = asyncio.get_running_loop()
    begun = time.perf_counter()
    clients = []
    for _ in range(connections):
        _, client = await loop.create_connection(lambda: _Client(lambda: next(numbers, None), body), "127.0.0.1", port)
        clients.append(client.done)
    await asyncio.gather(*clients)
    return time.perf_counter() - begun


def main(arguments: list[str]) -> None:
    """Prints seconds and CPU seconds."""
    port, messages, size, connections = map(int, arguments)
    try:
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] | None = uvloop.new_event_loop
    except ImportError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        used = time.process_time()
        seconds = runner.run(_run(port, messages, size, connections))
        print(seconds, time.process_time() - used)


if __name__ == "__main__":
    main(sys.argv[1:])
