"""A TCP connection to the first of a host's addresses that takes one: staggered attempts side by side (RFC 8305 §5)."""

import asyncio
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable

from spoold.smtp.resolver import Endpoint

#: Seconds that an attempt has for itself before the next address is tried beside it.
STAGGER = 0.25
#: So many seconds an address that failed is tried behind the others.
SHUNNED = 300.0


class Memory:
    """Which addresses of a relay failed lately, by `clock`, which gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[Endpoint, float] = {}

    def failed(self, endpoint: Endpoint) -> None:
        self._until[endpoint] = self._clock() + SHUNNED

    def order(self, found: Iterable[Endpoint]) -> list[Endpoint]:
        """The same addresses, those that failed lately behind the others."""
        now = self._clock()
        self._until = {endpoint: until for endpoint, until in self._until.items() if until > now}
        return sorted(found, key=lambda endpoint: endpoint in self._until)


async def dial(
    endpoints: Iterable[Endpoint], within: float, failures: dict[Endpoint, OSError]
) -> tuple[Endpoint, socket.socket] | None:
    """The address that answered first and its connection, None where none did `within` so many seconds.

    `failures` gets what the system said of the others; of those that said nothing, nothing.
    """
    loop = asyncio.get_running_loop()
    ends = loop.time() + within
    waiting = deque(endpoints)
    attempts: dict[asyncio.Task[socket.socket], Endpoint] = {}
    try:
        while waiting or attempts:
            if waiting:
                endpoint = waiting.popleft()
                attempts[loop.create_task(_attempt(endpoint))] = endpoint
            left = ends - loop.time()
            pause = min(STAGGER, left) if waiting else left
            done, _ = await asyncio.wait(attempts, timeout=max(pause, 0.0), return_when=asyncio.FIRST_COMPLETED)
            for attempt in done:
                if (error := attempt.exception()) is None:
                    return attempts.pop(attempt), attempt.result()
                if not isinstance(error, OSError):
                    raise error
                failures[attempts.pop(attempt)] = error
            if loop.time() >= ends and not done:
                return None
        return None
    finally:
        await _give_up(list(attempts))


async def _attempt(endpoint: Endpoint) -> socket.socket:
    connection = socket.socket(endpoint.family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        connection.setblocking(False)
        # As the loops do with connections of their own: a command must not wait for an acknowledgement (Nagle).
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(connection, endpoint.address)
    except BaseException:
        connection.close()
        raise
    return connection


async def _give_up(attempts: list["asyncio.Task[socket.socket]"]) -> None:
    """End the attempts that are left, and close what came of them all the same."""
    for attempt in attempts:
        attempt.cancel()
    if attempts:
        await asyncio.wait(attempts)
    for attempt in attempts:
        if not attempt.cancelled() and attempt.exception() is None:
            attempt.result().close()
