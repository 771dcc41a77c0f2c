"""The agent inside the test's own process, with file operations that can be made to fail: the seam `storage.files`."""

import asyncio
import errno
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from spoold.agent.supervisor import Supervisor
from spoold.cli import config
from spoold.storage.files import Files
from spoold.storage.spooldir import Spool
from tests.servers.agent import Agent

OPERATIONS = (
    "open_directory", "open_file", "read", "stat", "names", "walk", "make_directory", "rename", "unlink",
    "remove_directory", "sync", "sync_filesystem", "create", "write", "open_append", "free_bytes", "write_out",
)  # fmt: skip


class Faulty(Files):
    """Real files. `arm` makes calls fail; `calls` counts them all, failed ones too, by operation."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.failed = 0
        self._plan: tuple[str, range, int] = ("", range(0), 0)
        self._lock = threading.Lock()
        for name in OPERATIONS:
            setattr(self, name, self._wrap(name, getattr(self, name)))

    def arm(self, operation: str, nth: int, error: int, *, times: int = 1) -> None:
        """The `nth` call of `operation` from now on, counted from 1, and the `times` - 1 after it fail with `error`."""
        with self._lock:
            first = self.calls[operation] + nth
            self._plan = (operation, range(first, first + times), error)

    def _wrap(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def passing(*arguments: Any, **options: Any) -> Any:
            with self._lock:
                self.calls[name] += 1
                operation, when, number = self._plan
                fails = operation == name and self.calls[name] in when
                self.failed += fails
            if fails:
                raise OSError(number, os.strerror(number))
            return call(*arguments, **options)

        return passing


class Log:
    """What the agent logs, in place of structlog's logger."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, level: str) -> Callable[..., None]:
        return lambda event, **fields: self.lines.append((event, fields))

    def of(self, *events: str) -> list[dict[str, Any]]:
        return [fields for event, fields in self.lines if event in events]


def capture(monkeypatch: pytest.MonkeyPatch) -> Log:
    """The log of every agent in this process for the length of the test."""
    log = Log()
    monkeypatch.setattr("spoold.event._logger", log)
    return log


async def live(agent: Agent, files: Files, until: Callable[[], object], timeout: float = 15.0) -> BaseException | None:
    """Run the agent of this spool and configuration here until `until` is true, then stop it in order.

    Returns what ended it, None where that was the stop. AssertionError after `timeout` seconds.
    """
    found = config.read(agent.config)
    spool = Spool(found.spool, files)
    supervisor = Supervisor(
        spool, found.agent, clock=time.time, monotonic=time.monotonic, reload=lambda: found.agent, stop_on_signals=False
    )
    task = asyncio.create_task(supervisor.run())
    reached = False
    try:
        deadline = time.monotonic() + timeout
        while not task.done() and not reached and time.monotonic() < deadline:
            reached = bool(until())
            await asyncio.sleep(0.02)  # a poll, bounded by the deadline above
        supervisor.stop()
        (ended,) = await asyncio.gather(task, return_exceptions=True)
    finally:
        spool.close()
    assert reached or ended is not None, f"waited {timeout:g} s in vain"
    return ended


def name_of(number: int) -> str:
    """EIO for 5, and so on."""
    return errno.errorcode[number]
