"""No name that is being looked up holds up another, a connection that works, or the end of the process."""

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from spoold.core.fault import Fault, FaultKind
from spoold.smtp.connection import find
from spoold.smtp.relay import Relay as Settings
from spoold.smtp.relay import Security, Timeouts
from spoold.smtp.resolver import endpoints


class Names:
    """A system that answers for `*.dead` only once it is told to; counts how often it is asked for each name."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer = threading.Event()
        self._real = socket.getaddrinfo

    def __call__(self, host: str, *rest: Any, **more: Any) -> Any:
        self.asked.append(host)
        if host.endswith(".dead"):
            self.answer.wait(30)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return self._real("127.0.0.1", *rest, **more)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names)
    yield names
    names.answer.set()


def test_hundred_names_that_nobody_answers_hold_up_no_other(names: Names) -> None:
    async def look() -> float:
        dead = [asyncio.ensure_future(endpoints(f"r{n}.dead", 25)) for n in range(100)]
        await asyncio.sleep(0.05)
        begun = time.monotonic()
        (found,) = await endpoints("relay.good", 25)
        took = time.monotonic() - begun
        assert found.ip == "127.0.0.1"
        names.answer.set()
        errors = await asyncio.gather(*dead, return_exceptions=True)
        assert all(isinstance(error, socket.gaierror) for error in errors)
        return took

    assert asyncio.run(look()) < 2


def test_name_is_asked_for_once_by_all_who_want_it_at_a_time(names: Names) -> None:
    async def look() -> None:
        first = [asyncio.ensure_future(endpoints("r.dead", 25)) for _ in range(20)]
        await asyncio.sleep(0.05)
        # Whoever gives up does not start another.
        for each in first[:10]:
            each.cancel()
        late = asyncio.ensure_future(endpoints("r.dead", 25))
        await asyncio.sleep(0.05)
        assert names.asked == ["r.dead"]
        names.answer.set()
        errors = await asyncio.gather(*first[10:], late, return_exceptions=True)
        assert all(isinstance(error, socket.gaierror) for error in errors)
        # The next one asks anew.
        with pytest.raises(socket.gaierror):
            await endpoints("r.dead", 25)
        assert names.asked == ["r.dead", "r.dead"]

    asyncio.run(look())


def test_name_without_an_answer_is_a_fault_in_time(names: Names) -> None:
    relay = Settings("r", "r.dead", 25, Security.NONE, timeouts=Timeouts(connect=0.3))
    assert asyncio.run(find(relay)) == Fault(FaultKind.DNS, "r.dead:25: no name server answered within 0.3 s")


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "a..b"])
def test_name_that_is_none_is_a_fault_and_no_crash(host: str) -> None:
    found = asyncio.run(find(Settings("r", host, 25, Security.NONE)))
    assert isinstance(found, Fault)
    assert found.kind is FaultKind.DNS


def test_address_is_nobodys_to_look_up(names: Names) -> None:
    async def look() -> None:
        before = threading.active_count()
        await endpoints("127.0.0.1", 25)
        await endpoints("::1", 25)
        assert threading.active_count() == before

    asyncio.run(look())


def test_process_ends_without_waiting_for_a_look_up() -> None:
    program = """
import asyncio, socket, time
socket.getaddrinfo = lambda *_, **__: time.sleep(60)
from spoold.smtp.resolver import endpoints
async def look():
    for n in range(8):
        task = asyncio.ensure_future(endpoints(f"r{n}.example", 25))
    await asyncio.sleep(0.1)
asyncio.run(look())
"""
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
    assert time.monotonic() - begun < 10
