"""System calls of the running agent made to fail by strace, as a broken disk or an exhausted machine does."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.servers.agent import Agent, wait_for
from tests.servers.process import find_program, unavailable


class Tracer:
    """Let these system calls on this file or folder fail from now on; `when` as strace has it, for each thread."""

    def __init__(self, agent: Agent, path: Path, calls: str, error: str, when: str = "1+") -> None:
        self._log = agent.root / "strace.log"
        self._process = subprocess.Popen(
            [find_program("strace"), "-f", "-qq", "-o", str(self._log), "-P", str(path), "-e", f"trace={calls}",
             "-e", f"inject={calls}:error={error}:when={when}", "-p", str(agent.pid)],
            stderr=subprocess.PIPE,
        )  # fmt: skip
        wait_for(lambda: self._attached(agent.pid), what="the tracer")

    def _attached(self, pid: int) -> bool:
        if self._process.poll() is not None:
            assert self._process.stderr is not None
            unavailable(f"cannot trace a process: {self._process.stderr.read().decode().strip()}")
        found = [task / "status" for task in Path(f"/proc/{pid}/task").iterdir()]
        return all(f"TracerPid:\t{self._process.pid}" in status.read_text() for status in found)

    @property
    def failed(self) -> int:
        """How many calls it has made fail so far."""
        return self._log.read_bytes().count(b"(INJECTED)")

    def detach(self) -> None:
        """From now on all goes well again."""
        if self._process.poll() is None:
            self._process.terminate()
        self._process.communicate()


@contextlib.contextmanager
def failing(agent: Agent, path: Path, calls: str, error: str, when: str = "1+") -> Iterator[Tracer]:
    """See `Tracer`, for the length of a with block."""
    tracer = Tracer(agent, path, calls, error, when)
    try:
        yield tracer
    finally:
        tracer.detach()
