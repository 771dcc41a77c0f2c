"""What the real servers have in common: finding the program, choosing a port, waiting for it, ending it."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import pytest

HOST = "127.0.0.1"


def unavailable(reason: str) -> NoReturn:
    """Skip the test, or fail it where everything has to be there: under `CI=true`."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason} (a skip is not allowed under CI=true)", pytrace=False)
    pytest.skip(reason)


def find_program(name: str) -> str:
    """The absolute path of a program (`sbin` included); without it, see `unavailable`."""
    found = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin")
    if found is None:
        unavailable(f"the program {name!r} is not installed")
    return found


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago; whoever uses it must be ready to ask again."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], timeout: float, what: str, interval: float = 0.01) -> None:
    """Return as soon as `condition` holds; TimeoutError naming `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s in vain for {what}")
        time.sleep(interval)


def greets(port: int, greeting: bytes) -> bool:
    """Whether the server on `port` answers a connection with a line that begins with `greeting`."""
    try:
        with socket.create_connection((HOST, port), timeout=2) as client:
            return client.recv(1024).startswith(greeting)
    except OSError:
        return False


def comes_up(process: subprocess.Popen[bytes], port: int, greeting: bytes) -> bool:
    """Wait until the server greets on `port`; False if it ended instead, TimeoutError after 10 seconds."""
    wait_until(lambda: process.poll() is not None or greets(port, greeting), 10, f"a greeting on port {port}")
    return process.poll() is None


def descendants(pid: int) -> list[int]:
    """Process ids of the children of `pid`, and theirs, nearest first (Linux's /proc)."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it ended while we looked
        children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = list(children.get(pid, ()))
    for child in found:
        found.extend(children.get(child, ()))
    return found


def stop(process: subprocess.Popen[bytes], timeout: float = 5) -> None:
    """End `process` and everything it started: SIGTERM to itself, SIGKILL to what is left after `timeout`
    seconds.
    """
    family = descendants(process.pid) if process.poll() is None else []
    process.terminate()
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid in family:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    wait_until(lambda: not any(map(_runs, family)), timeout, f"the end of {family}")


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # a zombie waits for somebody else to notice


class Server:
    """A real server of the test's own, as a context manager: started on a free port, ended with all that it started.

    A kind of server says how it is prepared, launched and removed, and what its log is.
    """

    #: As errors call it.
    name: str
    host = HOST
    #: How it greets, and what its log says once a connection has ended without QUIT; empty: nothing.
    greeting = b"220"
    farewell = ""

    def __init__(self) -> None:
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._prepare()
        try:
            self._lay_out()
            self._start()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def log(self) -> str:
        """The server's own log."""
        raise NotImplementedError

    def _prepare(self) -> None:
        """Find the programs, then make the folder that `_remove` removes."""
        raise NotImplementedError

    def _lay_out(self) -> None:
        """Make what does not depend on the port."""

    def _launch(self) -> "subprocess.Popen[bytes]":
        """Start it, to listen on `port`."""
        raise NotImplementedError

    def _remove(self) -> None:
        """Remove all files, once it has ended."""
        raise NotImplementedError

    def _said(self) -> str:
        """What it said when it did not start."""
        return self.log()

    def _start(self) -> None:
        for _ in range(5):
            self.port = free_port()
            self._process = self._launch()
            if comes_up(self._process, self.port, self.greeting):
                # That was a connection without QUIT: no test shall find it in its log.
                wait_until(lambda: self.farewell in self.log(), 10, "the end of the first connection")
                return
            if "Address already in use" not in self._said():
                break
        raise RuntimeError(f"{self.name} did not start:\n{self._said()}")

    def _close(self) -> None:
        if self._process:
            stop(self._process)
        self._remove()
