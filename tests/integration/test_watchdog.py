"""A ping to the service manager means that the agent's parts move: one that hangs ends them, long work does not."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spoold.storage.store import Store
from tests.servers.agent import Agent
from tests.servers.inprocess import Faulty, Log, capture, live
from tests.servers.relay import Relay
from tests.servers.script import Delay, Rule


class Manager:
    """The service manager's end of the line."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)
        self.pings = 0

    def count(self) -> int:
        while True:
            try:
                self.pings += self.socket.recv(4096) == b"WATCHDOG=1"
            except BlockingIOError:
                return self.pings


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    """One that wants a ping every 0.2 seconds from an agent in this process, of which no part may take over half a second."""
    found = Manager(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    monkeypatch.setattr("spoold.agent.routine._PATIENCE", 0.5)
    yield found
    found.socket.close()


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    return capture(monkeypatch)


class Hanging(Faulty):
    """A file system of which one operation does not come back until it is let go."""

    def __init__(self, operation: str, where: Callable[..., bool]) -> None:
        self.gate = threading.Event()
        self.gate.set()
        super().__init__()
        call = getattr(self, operation)

        def waiting(*arguments: Any, **options: Any) -> Any:
            if where(*arguments):
                self.gate.wait(30)
            return call(*arguments, **options)

        setattr(self, operation, waiting)


def in_thread(name: str) -> Callable[..., bool]:
    """Whether a call is made by a thread of this name."""
    return lambda *_: threading.current_thread().name.startswith(name)


async def pings_end(agent: Agent, files: Hanging, manager: Manager, log: Log, part: str) -> None:
    """Hang, see the pings end and the reason told; let go, see them come again."""
    steps = iter(("moves", "hangs", "moves again"))
    step = next(steps)
    silent_since = since = 0.0
    seen = 0

    def look() -> bool:
        nonlocal step, since, seen, silent_since
        pings, now = manager.count(), time.monotonic()
        if step == "moves" and pings >= 3:
            files.gate.clear()
            step, seen, silent_since = next(steps), pings, now
        elif step == "hangs":
            if pings != seen:
                seen, silent_since = pings, now
            if now - silent_since > 1.5 and log.of("agent.stuck"):
                files.gate.set()
                step = next(steps)
        return step == "moves again" and pings > seen + 2

    try:
        assert await live(agent, files, look, 30) is None
    finally:
        files.gate.set()
    told = log.of("agent.stuck")
    assert told[0]["parts"][0].startswith(f"{part}, for ")
    assert len(told) == 1


@pytest.mark.parametrize(
    ("operation", "where", "part"),
    [
        ("names", lambda fd: True, "scan"),
        ("replace", lambda root, name, *_: name == "status.json", "status"),
    ],
    ids=["scan", "status"],
)
async def test_routine_that_hangs_ends_the_pings(
    agent: Agent, manager: Manager, log: Log, operation: str, where: Callable[..., bool], part: str
) -> None:
    await pings_end(agent, Hanging(operation, where), manager, log, part)


async def test_control_look_that_hangs_ends_the_pings(agent: Agent, relay: Relay, manager: Manager, log: Log) -> None:
    agent.drop("held", files={"HOLD": b""})
    await pings_end(agent, Hanging("open_directory", in_thread("control")), manager, log, "control")


async def test_message_that_is_never_read_ends_the_pings(
    agent: Agent, relay: Relay, manager: Manager, log: Log
) -> None:
    """The couriers': the body's thread does not come back."""
    files = Hanging("open_file", in_thread("body"))
    files.gate.clear()
    files.read_at_once = lambda *_: None  # type: ignore[method-assign]
    agent.drop("job")
    seen: list[int] = []

    def look() -> bool:
        if log.of("agent.stuck"):
            files.gate.set()
            seen.append(manager.count())
        return bool(relay.accepted) and manager.count() > seen[0] + 2

    assert await live(agent, files, look, 30) is None
    assert log.of("agent.stuck")[0]["parts"][0].startswith("dispatcher, for ")


async def test_transaction_that_takes_long_and_an_idle_agent_do_not_end_the_pings(
    agent: Agent, relay: Relay, manager: Manager, log: Log
) -> None:
    relay.rules.append(Rule("DOT", Delay(3)))
    agent.drop("job", ["ada@one.example"])
    gaps: list[float] = []
    last = [0, time.monotonic()]

    def look() -> bool:
        pings, now = manager.count(), time.monotonic()
        if pings > last[0]:
            gaps.append(now - last[1])
            last[:] = [pings, now]
        return bool(relay.accepted) and (agent.status("job") or {}).get("state") == "finished"

    assert await live(agent, Faulty(), look, 30) is None
    assert log.of("agent.stuck") == []
    assert len(gaps) > 8


async def test_database_that_waits_for_room_does_not_end_the_pings_and_one_that_hangs_does(
    agent: Agent, manager: Manager, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = Store.alive
    waiting = threading.Event()

    def alive(store: Store) -> "asyncio.Future[None]":
        return asyncio.get_running_loop().create_future() if waiting.is_set() else answer(store)

    monkeypatch.setattr(Store, "alive", alive)
    files = Faulty()
    free = files.free_bytes
    full = threading.Event()
    files.free_bytes = lambda fd: 0 if full.is_set() else free(fd)  # type: ignore[method-assign]
    seen: dict[str, int] = {}
    since = 0.0

    def look() -> bool:
        nonlocal since
        pings, now = manager.count(), time.monotonic()
        if not waiting.is_set() and not seen and pings >= 3:
            full.set()
            seen["full"] = pings
        elif log.of("disk.full") and not waiting.is_set() and len(seen) == 1:
            waiting.set()
            seen["waiting"] = pings
        elif len(seen) == 2 and pings >= seen["waiting"] + 5:
            full.clear()
            seen["free"] = pings
        elif len(seen) == 3 and log.of("disk.free"):
            seen["hangs"], since = pings, now
        if len(seen) == 4 and now - since > 1.5:
            waiting.clear()
            return True
        return False

    assert await live(agent, files, look, 30) is None
    assert manager.count() <= seen["hangs"] + 1
