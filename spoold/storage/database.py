"""One SQLite database, written by one thread in group commits, read by any thread.

Every write is a function of a connection. All writes that queued up while a commit ran go into the next one, so that a
hundred sessions share one sync. A write is durable when its future resolves. An error of the database is final:
nothing more is written, and `on_failure` is told (a failed fsync marks pages clean; a second one would succeed and
lie). The one exception is a full disk, which SQLite reports before anything is synced: the batch is rolled back and
tried again until there is room.
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from spoold.core.problem import UserError

T = TypeVar("T")
Write = Callable[[sqlite3.Connection], T]

_BATCH = 2000
#: How often the end tells a thread that reads to stop, and how long it then waits for it each time, in seconds.
_LAST_LOOKS = 20
_LAST_LOOK = 0.02
#: Page caches in KiB: of the one writer, and of each reading thread.
_WRITER_CACHE = 8_000
_READER_CACHE = 250
_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA wal_autocheckpoint=2000",
)


#: Up to this size all of the database is checked at the start: some 0.2 s on a warm disk.
_CHECKED_WHOLE = 32 * 1024 * 1024
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_ADVICE = (
    "; to do: nothing was sent or changed since; keep a copy of the folder .spoold, check the disk, then"
    " restore a back-up, or save what can be read with `sqlite3 spool.db .recover`"
)
_NO_PLACE = "; expected a folder in which files can be made: the rights to it, free space, free inodes (`df -i`)"


class DatabaseError(UserError):
    """The database cannot be used; the text says why."""


def silent(_: sqlite3.Cursor) -> None:
    """Makes a write of one statement return nothing."""


# Python looks for a way to turn each NULL and each BLOB into what SQLite knows, and finds after a microsecond that there is
# none and need be none. These give back what they are given, and are found at once.
sqlite3.register_adapter(type(None), {}.get)  # type: ignore[arg-type]
sqlite3.register_adapter(bytes, bytes)


class _Stop:
    pass


_Job = tuple[Write[Any], "Future[Any] | asyncio.Future[Any]"]


@dataclass(frozen=True, slots=True)
class _Reader:
    """One thread's connection for reading; the lock is held while it does."""

    connection: sqlite3.Connection
    lock: threading.RLock = field(default_factory=threading.RLock)

    def close(self) -> None:
        """After a failure a thread may still be reading: a connection that is closed under a statement takes the process with
        it. It is told to stop; if it does not, its connection stays until the process ends.
        """
        for _ in range(_LAST_LOOKS):
            self.connection.interrupt()  # between two statements it is not heard
            if self.lock.acquire(timeout=_LAST_LOOK):
                try:
                    self.connection.close()
                finally:
                    self.lock.release()  # its thread may ask once more, and must be told
                return


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection that any thread may use, one at a time; transactions begin and end where they are told to. What SQLite
    sorts goes into files: memory must not grow with a job.
    """
    uri = f"file:{quote(str(path))}?mode={'ro' if read_only else 'rwc'}"
    connection = sqlite3.connect(
        uri, uri=True, isolation_level=None, check_same_thread=False, cached_statements=200, timeout=10
    )
    connection.execute("PRAGMA temp_store=FILE")
    return connection


class Database:
    """See the module. `retry_after` is the pause in seconds before a batch that met a full disk is tried again; `on_commit`
    is told the seconds that a commit took."""

    def __init__(
        self,
        path: Path,
        *,
        on_failure: Callable[[Exception], None] = lambda _: None,
        on_full: Callable[[bool], None] = lambda _: None,
        on_commit: Callable[[float], None] = lambda _: None,
        retry_after: float = 1.0,
    ) -> None:
        self._path = path
        self._on_failure = on_failure
        self._on_full = on_full
        self._on_commit = on_commit
        self._retry_after = retry_after
        self._queue: queue.SimpleQueue[_Job | _Stop] = queue.SimpleQueue()
        self._failure: Exception | None = None
        self._failing = threading.Lock()
        self._stopping = threading.Event()
        self._readers = threading.local()
        self._all_readers: list[_Reader] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self.commits = 0
        try:
            self._connection = self._open(_WRITER_CACHE)
        except sqlite3.Error as error:
            raise told(path, error) from None
        self._thread = threading.Thread(target=self._run, name="database", daemon=True)

    def _open(self, cache: int) -> sqlite3.Connection:
        connection = connect(self._path)
        for pragma in _PRAGMAS:
            connection.execute(pragma)
        connection.execute(f"PRAGMA cache_size=-{cache}")
        return connection

    def start(self, schema: str) -> None:
        """Check what is there, apply `schema` (idempotent) and start the writer. Raises DatabaseError."""
        try:
            self._check_integrity()
            self._connection.executescript(schema)
        except sqlite3.Error as error:
            raise told(self._path, error) from None
        self._thread.start()

    def _check_integrity(self) -> None:
        """Nothing is sent by a damaged database. Of a large one only the jobs are checked, so that the start stays quick."""
        tables = ["job", "claim"] if self._path.stat().st_size > _CHECKED_WHOLE else [""]
        known = {row[0] for row in self._connection.execute("SELECT name FROM sqlite_master")}
        for table in tables:
            if table and table not in known:
                continue
            check = f"PRAGMA quick_check({table})" if table else "PRAGMA quick_check(1)"
            (found,) = self._connection.execute(check).fetchone()
            if found != "ok":
                reason = " ".join(found.replace("***", "").split())
                raise DatabaseError(f"{self._path}: is damaged: {reason}{_ADVICE}")

    def close(self) -> None:
        """Commit what is queued, then close."""
        self._stopping.set()
        if self._thread.is_alive():
            self._queue.put(_Stop())
            self._thread.join()
        self._failure = self._failure or self._closing()
        with contextlib.suppress(queue.Empty):  # who came too late must not wait for ever
            while not isinstance(job := self._queue.get_nowait(), _Stop):
                self._resolve([(job[1], None, self._failure)])
        for reader in self._all_readers:
            reader.close()
        self._connection.close()

    def write(self, write: Write[T]) -> T:
        """Run `write` in the next commit; returns when that is durable. For threads, not for the loop."""
        future: Future[T] = Future()
        self._put((write, future))
        return future.result()

    def write_soon(self, write: Write[T]) -> "asyncio.Future[T]":
        """The same for the event loop."""
        self._loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = self._loop.create_future()
        self._put((write, future))
        return future

    def check(self) -> None:
        """Raises DatabaseError once the database has failed."""
        if self._failure is not None:
            raise DatabaseError(str(self._failure))

    def _put(self, job: _Job) -> None:
        self.check()
        self._queue.put(job)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """This thread's connection for reading: each SELECT sees the last commit before it."""
        reader: _Reader | None = getattr(self._readers, "reader", None)
        if reader is None:
            if self._stopping.is_set():
                raise self._closing()
            reader = _Reader(self._open(_READER_CACHE))
            reader.connection.execute("PRAGMA query_only=ON")
            self._readers.reader = reader
            self._all_readers.append(reader)
        with reader.lock:
            try:
                yield reader.connection
            except sqlite3.Error as error:
                if self._stopping.is_set():
                    raise self._closing() from None
                if not _is_damage(error):
                    raise
                self._fail(error)
                raise DatabaseError(str(self._failure)) from None

    def _closing(self) -> DatabaseError:
        return DatabaseError(f"{self._path}: is closed")

    def _fail(self, error: Exception) -> None:
        """Final, and told once."""
        with self._failing:
            if self._failure is not None:
                return
            self._failure = told(self._path, error)
        self._on_failure(self._failure)

    def _run(self) -> None:
        while True:
            jobs: list[_Job] = []
            job = self._queue.get()
            stop = isinstance(job, _Stop)
            if not isinstance(job, _Stop):
                jobs.append(job)
            while len(jobs) < _BATCH and not stop:
                try:
                    job = self._queue.get_nowait()
                except queue.Empty:
                    break
                if isinstance(job, _Stop):
                    stop = True
                else:
                    jobs.append(job)
            if jobs:
                self._commit(jobs)
            if stop:
                return

    def _commit(self, jobs: list[_Job]) -> None:
        if self._failure is not None:
            self._resolve([(future, None, self._failure) for _, future in jobs])
            return
        full = False
        while True:
            try:
                results = self._attempt(jobs)
                break
            except sqlite3.Error as error:
                if self._connection.in_transaction:
                    self._connection.rollback()
                if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                    if not full:
                        full = True
                        self._on_full(True)
                    if not self._stopping.wait(self._retry_after):
                        continue
                self._fail(error)
                self._resolve([(future, None, self._failure) for _, future in jobs])
                return
        if full:
            self._on_full(False)
        self._resolve(results)

    def _attempt(self, jobs: list[_Job]) -> list[tuple[Any, Any, Exception | None]]:
        results: list[tuple[Any, Any, Exception | None]] = []
        skip: dict[int, Exception] = {}
        while True:
            results.clear()
            begun = time.perf_counter()
            self._connection.execute("BEGIN IMMEDIATE")
            for index, (write, future) in enumerate(jobs):
                if index in skip:
                    results.append((future, None, skip[index]))
                    continue
                try:
                    results.append((future, write(self._connection), None))
                except sqlite3.Error:
                    raise
                except Exception as error:  # noqa: BLE001 - a bug in one write must not take the others with it
                    skip[index] = error
                    self._connection.rollback()
                    break
            else:
                self._connection.commit()
                self.commits += 1
                self._on_commit(time.perf_counter() - begun)
                return results

    def _resolve(self, results: list[tuple[Any, Any, Exception | None]]) -> None:
        ours = []
        for future, value, error in results:
            if isinstance(future, Future):
                if error is not None:
                    future.set_exception(error)
                else:
                    future.set_result(value)
            else:
                ours.append((future, value, error))
        if ours and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_resolve_in_loop, ours)


def told(path: Path, error: Exception) -> DatabaseError:
    """SQLite's error with what to do about it."""
    advice = _ADVICE if _is_damage(error) else _NO_PLACE if _code(error) == sqlite3.SQLITE_CANTOPEN else ""
    return DatabaseError(f"{path}: {error}{advice}")


def _code(error: Exception) -> int:
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def _is_damage(error: Exception) -> bool:
    """Whether the file's content is wrong, as opposed to a disk that is full or does not answer."""
    return _code(error) in _DAMAGE


def _resolve_in_loop(results: list[tuple["asyncio.Future[Any]", Any, Exception | None]]) -> None:
    for future, value, error in results:
        if future.done():
            continue
        if error is not None:
            future.set_exception(error)
            future.exception()  # an abandoned future must not warn; whoever waits still gets it
        else:
            future.set_result(value)
