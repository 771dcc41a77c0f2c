"""One SQLite database, written by one thread in group commits, read by any thread.

Every write is a function of a connection. All writes that queued up while a commit ran go into the next one, so that a
hundred sessions share one sync. A write is durable when its future resolves. An error of the database is final:
nothing more is written, and `on_failure` is told (a failed fsync marks pages clean; a second one would succeed and
lie). The one exception is a full disk, which SQLite reports before anything is synced: the batch is rolled back and
tried again until there is room.
"""

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
Write = Callable[[sqlite3.Connection], T]

_BATCH = 2000
#: Page caches in KiB: of the one writer, and of each reading thread.
_WRITER_CACHE = 16_000
_READER_CACHE = 2_000
_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA temp_store=FILE",
    "PRAGMA wal_autocheckpoint=2000",
)


class DatabaseError(Exception):
    """The database cannot be used; the text says why."""


def silent(_: sqlite3.Cursor) -> None:
    """Makes a write of one statement return nothing."""


class _Stop:
    pass


_Job = tuple[Write[Any], "Future[Any] | asyncio.Future[Any]"]


class Database:
    """See the module. `retry_after` is the pause in seconds before a batch that met a full disk is tried again."""

    def __init__(
        self,
        path: Path,
        *,
        on_failure: Callable[[Exception], None] = lambda _: None,
        on_full: Callable[[bool], None] = lambda _: None,
        retry_after: float = 1.0,
    ) -> None:
        self._path = path
        self._on_failure = on_failure
        self._on_full = on_full
        self._retry_after = retry_after
        self._queue: queue.SimpleQueue[_Job | _Stop] = queue.SimpleQueue()
        self._failure: Exception | None = None
        self._stopping = threading.Event()
        self._readers = threading.local()
        self._all_readers: list[sqlite3.Connection] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self.commits = 0
        try:
            self._connection = self._connect(_WRITER_CACHE)
        except sqlite3.Error as error:
            raise DatabaseError(f"{path}: {error}") from None
        self._thread = threading.Thread(target=self._run, name="database", daemon=True)

    def _connect(self, cache: int) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, isolation_level=None, check_same_thread=False, cached_statements=200, timeout=10
        )
        for pragma in _PRAGMAS:
            connection.execute(pragma)
        connection.execute(f"PRAGMA cache_size=-{cache}")
        return connection

    def start(self, schema: str) -> None:
        """Apply `schema` (idempotent) and start the writer. Raises DatabaseError."""
        try:
            self._connection.executescript(schema)
        except sqlite3.Error as error:
            raise DatabaseError(f"{self._path}: {error}") from None
        self._thread.start()

    def close(self) -> None:
        """Commit what is queued, then close."""
        self._stopping.set()
        if self._thread.is_alive():
            self._queue.put(_Stop())
            self._thread.join()
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
        connection: sqlite3.Connection | None = getattr(self._readers, "connection", None)
        if connection is None:
            connection = self._connect(_READER_CACHE)
            connection.execute("PRAGMA query_only=ON")
            self._readers.connection = connection
            self._all_readers.append(connection)
        yield connection

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
                self._failure = DatabaseError(f"{self._path}: {error}")
                self._resolve([(future, None, self._failure) for _, future in jobs])
                self._on_failure(self._failure)
                return
        if full:
            self._on_full(False)
        self._resolve(results)

    def _attempt(self, jobs: list[_Job]) -> list[tuple[Any, Any, Exception | None]]:
        results: list[tuple[Any, Any, Exception | None]] = []
        skip: dict[int, Exception] = {}
        while True:
            results.clear()
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


def _resolve_in_loop(results: list[tuple["asyncio.Future[Any]", Any, Exception | None]]) -> None:
    for future, value, error in results:
        if future.done():
            continue
        if error is not None:
            future.set_exception(error)
            future.exception()  # an abandoned future must not warn; whoever waits still gets it
        else:
            future.set_result(value)
