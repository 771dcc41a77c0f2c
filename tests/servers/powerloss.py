"""A simulated disk that loses, at a power cut, whatever was not synced: directories too (POSIX promises no more).

`Recorder` is the seam `storage.files` over real files. It keeps what a disk must have: a file's content as of its last
sync, a directory's names as of its own; and of the database, which syncs for itself, the log as of the last commit.
After each step the state is kept, so that a test can build every one of them and start an agent on it.
"""

import os
import sqlite3
import stat
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from spoold.storage.database import Database
from spoold.storage.files import Files

_STEPS = (
    "create",
    "write",
    "sync",
    "sync_filesystem",
    "write_out",
    "rename",
    "make_directory",
    "unlink",
    "remove_directory",
    "open_append",
)


@dataclass(frozen=True, slots=True)
class Cut:
    """What is on the disk if the power goes at this moment; `taken` messages had been taken by the relay by then."""

    step: str
    entries: dict[int, dict[str, int]]
    content: dict[int, bytes]
    owner: dict[int, int]
    database: dict[str, bytes]
    root: int
    taken: int

    def build(self, spool: Path) -> None:
        """Make this state below `spool`."""
        inodes: dict[int, int] = {}

        def make(inode: int, path: Path) -> None:
            if inode in self.entries:
                path.mkdir(exist_ok=True)
                for name, child in self.entries[inode].items():
                    make(child, path / name)
            else:
                path.write_bytes(self.content.get(inode, b""))
            os.chown(path, self.owner.get(inode, os.geteuid()), -1)
            inodes[inode] = path.stat().st_ino

        make(self.root, spool)
        private = spool / ".spoold"
        private.mkdir(exist_ok=True)
        for name, data in self.database.items():
            (private / name).write_bytes(data)
        with closing(sqlite3.connect(private / "spool.db")) as database:
            # A disk keeps its inodes' numbers over a power cut, and this copy cannot.
            for job_id, claim in database.execute("SELECT id, claim FROM job WHERE claim IS NOT NULL").fetchall():
                database.execute("UPDATE job SET claim = ? WHERE id = ?", (inodes.get(claim, 0), job_id))
            database.commit()


class Recorder(Files):
    """See the module. `taken` says how many messages the relay has taken so far."""

    def __init__(self, spool: Path, taken: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> None:
        self.cuts: list[Cut] = []
        self._spool = spool
        self._taken = taken
        self._lock = threading.RLock()
        self._entries: dict[int, dict[str, int]] = {}
        self._content: dict[int, bytes] = {}
        self._owner: dict[int, int] = {}
        self._database: dict[str, bytes] = {}
        self._root = spool.stat().st_ino
        self._keep_all(spool)
        for name in _STEPS:
            setattr(self, name, self._wrap(name, getattr(self, name)))
        attempt, start = Database._attempt, Database.start

        def committing(database: Database, jobs: Any) -> Any:
            with self._lock:
                found = attempt(database, jobs)
                self._keep_database()
                self._cut("commit")
                return found

        def starting(database: Database, schema: str) -> None:
            start(database, schema)
            self._keep_database()

        monkeypatch.setattr(Database, "_attempt", committing)
        monkeypatch.setattr(Database, "start", starting)

    def _wrap(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            with self._lock:
                found = call(*arguments, **options)
                if name == "create":
                    self._new(os.fstat(found))
                elif name == "open_append" and os.fstat(found).st_ino in self._entries:
                    self._new(os.fstat(found))  # a number that a removed folder had
                elif name == "make_directory":
                    self._new(os.stat(arguments[1], dir_fd=arguments[0], follow_symlinks=False))
                elif name in ("sync", "write_out"):  # what is written out is there before a later rename is
                    self._keep(arguments[0])
                elif name == "sync_filesystem":
                    self._keep_all(self._spool)
                self._cut(f"{name} {arguments[1] if name in ('create', 'rename', 'make_directory') else ''}".strip())
                return found

        return step

    def _new(self, status: os.stat_result) -> None:
        self._owner[status.st_ino] = status.st_uid
        if stat.S_ISDIR(status.st_mode):
            self._entries[status.st_ino] = {}
            self._content.pop(status.st_ino, None)
        else:
            self._content[status.st_ino] = b""
            self._entries.pop(status.st_ino, None)

    def _keep(self, fd: int) -> None:
        """What `fd` is, is on the disk now; of a directory only its names."""
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            names = [name for name in os.listdir(fd) if name != ".spoold"]
            self._entries[status.st_ino] = {
                name: os.stat(name, dir_fd=fd, follow_symlinks=False).st_ino for name in names
            }
            # A rename is atomic on every file system that is asked for: what is here now is nowhere else.
            here = set(self._entries[status.st_ino].values())
            for folder, known in self._entries.items():
                if folder != status.st_ino:
                    for name in [name for name, inode in known.items() if inode in here]:
                        del known[name]
        else:
            self._content[status.st_ino] = Path(f"/proc/self/fd/{fd}").read_bytes()

    def _keep_all(self, folder: Path) -> None:
        for path in (folder, *(path for path in folder.rglob("*") if ".spoold" not in path.parts)):
            fd = os.open(path, os.O_RDONLY)
            self._new(os.fstat(fd))
            self._keep(fd)
            os.close(fd)

    def _keep_database(self) -> None:
        # Few commits: the log is not written back into the database before the end.
        for name in ("spool.db", "spool.db-wal"):
            path = self._spool / ".spoold" / name
            if path.exists():
                self._database[name] = path.read_bytes()

    def _cut(self, step: str) -> None:
        entries = {inode: dict(names) for inode, names in self._entries.items()}
        cut = Cut(
            step, entries, dict(self._content), dict(self._owner), dict(self._database), self._root, self._taken()
        )
        last = self.cuts[-1] if self.cuts else None
        if self._database and (
            last is None
            or (last.entries, last.content, last.database, last.taken)
            != (cut.entries, cut.content, cut.database, cut.taken)
        ):
            self.cuts.append(cut)
