"""Postfix's smtp-sink as the relay of measurements: takes everything, keeps nothing, counts messages.

Where it is not installed, the bench's own relay (`tests.bench.relay`) does the same, at a higher price.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.servers.process import HOST, comes_up, free_port, stop

_COUNT = re.compile(rb"mesg=(\d+)")
#: Seconds between two looks at the counter.
_GLANCE = 0.002


def program(name: str) -> str | None:
    """The path of a program, `sbin` included; None where it is not installed."""
    return shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin")


@dataclass(frozen=True, slots=True)
class Flow:
    """Messages that arrived between the first and the last look at which there were new ones; moments are monotonic."""

    first_at: float
    last_at: float
    arrived: int

    @property
    def rate(self) -> float:
        """Messages a second between the two."""
        return self.arrived / max(self.last_at - self.first_at, 1e-6)


class Sink:
    """A context manager; on a free port of 127.0.0.1. `delay` in seconds holds back each burst of replies.

    smtp-sink knows no such delay: with one it is always the bench's own relay.
    """

    def __init__(self, delay: float = 0.0) -> None:
        self.port = 0
        self._delay = delay
        self._counter = Path()

    def __enter__(self) -> Self:
        handle, name = tempfile.mkstemp(prefix="spoold-bench-sink-")
        self._counter = Path(name)
        found = program("smtp-sink")
        for _ in range(5):
            self.port = free_port()
            if found is None or self._delay:
                command = [sys.executable, "-m", "tests.bench.relay", str(self.port), str(self._delay)]
            else:
                user = ["-u", "nobody"] if os.geteuid() == 0 else []
                command = [found, *user, "-c", "-m", "1000", f"{HOST}:{self.port}", "1000"]
            self._process = subprocess.Popen(command, stdout=handle)
            if comes_up(self._process, self.port, b"220"):
                os.close(handle)
                return self
        raise RuntimeError(f"no relay: {command[0]} does not start")

    def __exit__(self, *_: object) -> None:
        stop(self._process)
        self._counter.unlink()

    @property
    def accepted(self) -> int:
        """How many messages it has taken so far."""
        with self._counter.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 200))
            found = _COUNT.findall(file.read())
        # The last number may have been cut off by its writer: the one before is whole.
        return int(found[-1]) if found else 0

    def wait(self, count: int, timeout: float) -> float:
        """Wait until it has taken so many; returns the moment, by the monotonic clock."""
        deadline = time.monotonic() + timeout
        while self.accepted < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the relay got {self.accepted} of {count} messages in {timeout:g} s")
            time.sleep(_GLANCE)
        return time.monotonic()

    def flow(self, count: int, release: Callable[[], None], timeout: float) -> Flow:
        """Let a sender begin by `release`, and watch `count` messages arrive.

        The clock runs from the first arrival: how long the sender took to begin is not its rate.
        """
        base = self.accepted
        release()
        first_at = self.wait(base + 1, timeout)
        first = self.accepted
        last_at = self.wait(base + count, timeout)
        return Flow(first_at, last_at, self.accepted - first)
