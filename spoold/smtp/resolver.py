"""The addresses of a host's name, looked up so that no name waits for another.

The system's look-up blocks a thread, for half a minute where no name server answers, and nobody can cancel it. So each name
that is being looked up has a thread of its own, shared by all who want that name; the process ends without waiting for it.
"""

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of a relay, as the socket functions want it."""

    family: int
    address: tuple[str | int | bytes, ...]

    @property
    def ip(self) -> str:
        return str(self.address[0])

    def __str__(self) -> str:
        return f"[{self.ip}]" if self.family == socket.AF_INET6 else self.ip


_Waiter = tuple[asyncio.AbstractEventLoop, "asyncio.Future[list[Endpoint]]"]
_lock = threading.Lock()
_waiting: dict[tuple[str, int], list[_Waiter]] = {}
"""By host and port, who waits for the look-up that is under way."""


async def endpoints(host: str, port: int) -> list[Endpoint]:
    """Where connections to `host` may go, IPv6 and IPv4 by turns (RFC 8305 §4), the one that the system likes best first.

    Raises OSError. There is no limit to how long it takes; whoever cancels it leaves the thread to its end.
    """
    if is_address(host):
        return _look_up(host, port)  # nobody has to be asked
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[Endpoint]] = loop.create_future()
    with _lock:
        waiters = _waiting.setdefault((host, port), [])
        waiters.append((loop, found))
        is_first = len(waiters) == 1
    if is_first:
        try:
            threading.Thread(target=_work, args=(host, port), name=f"look-up {host}", daemon=True).start()
        except RuntimeError as error:
            _tell(host, port, OSError(f"no thread to look it up with: {error}"))
    return await found


def is_address(host: str) -> bool:
    """Whether it is an IP address, and no name."""
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return True
    return False


def _work(host: str, port: int) -> None:
    try:
        found: list[Endpoint] | OSError = _look_up(host, port)
    except OSError as error:
        found = error
    except Exception as error:  # noqa: BLE001 - whoever waits must be told, whatever it is
        found = OSError(f"{type(error).__name__}: {error}")
    _tell(host, port, found)


def _tell(host: str, port: int, found: list[Endpoint] | OSError) -> None:
    with _lock:
        waiters = _waiting.pop((host, port), [])
    for loop, future in waiters:
        with contextlib.suppress(RuntimeError):  # that loop has ended
            loop.call_soon_threadsafe(_settle, future, found)


def _settle(future: "asyncio.Future[list[Endpoint]]", found: list[Endpoint] | OSError) -> None:
    if future.done():
        return
    if isinstance(found, OSError):
        future.set_exception(found)
    else:
        future.set_result(list(found))


def _look_up(host: str, port: int) -> list[Endpoint]:
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # the name has a label that is none, such as one of more than 63 characters
        raise OSError(f"not a host's name: {error}") from None
    found = dict.fromkeys(Endpoint(family, address) for family, _, _, _, address in answers)
    return _by_turns(list(found))


def _by_turns(found: Sequence[Endpoint]) -> list[Endpoint]:
    """The families by turns, each in its order, beginning with that of the first."""
    first = [endpoint for endpoint in found if endpoint.family == found[0].family]
    others = [endpoint for endpoint in found if endpoint.family != found[0].family]
    return [endpoint for pair in zip_longest(first, others) for endpoint in pair if endpoint is not None]
