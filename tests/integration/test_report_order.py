"""What a live job's report says is on its way to the disk before its name is: a power cut leaves the old one or the new one."""

import os
import threading
from typing import Any

import pytest

from spoold.storage.files import Files
from tests.servers.agent import Agent
from tests.servers.inprocess import capture, live
from tests.servers.relay import Relay


class Ordered(Files):
    """Real files on a disk that keeps names at once, as a journal does, and content only when it is told to."""

    def __init__(self) -> None:
        self.renamed: list[str] = []
        self.empty: list[str] = []
        self._dirty: set[int] = set()
        self._lock = threading.Lock()

    def write(self, fd: int, data: bytes) -> None:
        with self._lock:
            self._dirty.add(os.fstat(fd).st_ino)
        super().write(fd, data)

    def write_out(self, fd: int) -> None:
        super().write_out(fd)
        with self._lock:
            self._dirty.discard(os.fstat(fd).st_ino)

    def sync(self, fd: int) -> None:
        super().sync(fd)
        with self._lock:
            self._dirty.discard(os.fstat(fd).st_ino)

    def sync_filesystem(self, fd: int) -> None:
        super().sync_filesystem(fd)
        with self._lock:
            self._dirty.clear()

    def rename(self, from_fd: int, name: str, to_fd: int, new_name: str) -> None:
        inode = os.stat(name, dir_fd=from_fd, follow_symlinks=False).st_ino
        super().rename(from_fd, name, to_fd, new_name)
        with self._lock:
            self.renamed.append(new_name)
            if inode in self._dirty:
                self.empty.append(new_name)


async def test_no_report_gets_its_name_before_its_content_is_on_its_way(
    agent: Agent, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, files = capture(monkeypatch), Ordered()
    agent.drop("job", [f"u{number}@one.example" for number in range(40)], manifest={"rate": "10/s"})

    def ended() -> Any:
        return (agent.spool / "done/job").is_dir()

    assert await live(agent, files, ended, 30) is None
    # Several times while it was sent, and at its end; those of the agent itself too.
    assert files.renamed.count("status.json") > 4
    assert {"status.txt", "statistics.json", "recipients.csv", "index.html", "metrics.prom"} <= set(files.renamed)
    assert files.empty == []
    assert log.of("agent.task_failed", "report.failed") == []
