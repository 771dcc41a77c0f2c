"""The one writer: group commits, a write that fails alone, an error that is final, a disk that is full for a while."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from spoold.storage.database import Database, DatabaseError

SCHEMA = "CREATE TABLE IF NOT EXISTS line (n INTEGER PRIMARY KEY)"


def add(n: int) -> Callable[[sqlite3.Connection], int]:
    def write(connection: sqlite3.Connection) -> int:
        connection.execute("INSERT INTO line VALUES (?)", (n,))
        return n * 10

    return write


def lines(path: Path) -> list[int]:
    connection = sqlite3.connect(path)
    found = [row[0] for row in connection.execute("SELECT n FROM line ORDER BY n")]
    connection.close()
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    opened = Database(path)
    opened.start(SCHEMA)
    yield opened
    opened.close()


class Breaker:
    """Fails commits, in their order, by error code; None lets one pass. Says how many came."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, errors: list[int | None]) -> None:
        self.errors = errors
        self.commits = 0
        breaker = self

        class Connection(sqlite3.Connection):
            def commit(self) -> None:
                breaker.commits += 1
                if breaker.errors and (code := breaker.errors.pop(0)) is not None:
                    error = sqlite3.OperationalError("database or disk is full" if code == 13 else "disk I/O error")
                    error.sqlite_errorcode = code
                    raise error
                super().commit()

        connect = sqlite3.connect

        def connect_breakable(*arguments: Any, **options: Any) -> sqlite3.Connection:
            return connect(*arguments, factory=Connection, **options)

        monkeypatch.setattr("spoold.storage.database.sqlite3.connect", connect_breakable)


def test_write_is_durable_when_it_returns(database: Database, path: Path) -> None:
    assert database.write(add(1)) == 10
    assert lines(path) == [1]
    with database.reading() as reader:
        assert reader.execute("PRAGMA synchronous").fetchone() == (2,)
        assert reader.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_writes_that_queue_up_share_commits_and_keep_their_order(database: Database, path: Path) -> None:
    entered, go = threading.Event(), threading.Event()

    def slow(_: sqlite3.Connection) -> None:
        entered.set()
        go.wait(10)

    loop = asyncio.get_running_loop()
    before = database.commits
    first = database.write_soon(slow)
    await loop.run_in_executor(None, entered.wait, 10)
    order: list[int] = []
    others = []
    for n in range(500):
        others.append(database.write_soon(add(n)))
        others[-1].add_done_callback(lambda future: order.append(future.result()))
    go.set()
    await first
    assert await asyncio.gather(*others) == [n * 10 for n in range(500)]
    assert order == [n * 10 for n in range(500)]
    assert database.commits - before == 2
    assert lines(path) == list(range(500))


def test_threads_share_the_writer(database: Database, path: Path) -> None:
    with ThreadPoolExecutor(20) as threads:
        assert sorted(threads.map(lambda n: database.write(add(n)), range(200))) == [n * 10 for n in range(200)]
    assert lines(path) == list(range(200))


async def test_write_with_a_bug_fails_alone(database: Database, path: Path) -> None:
    def wrong(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO line VALUES (99)")
        raise ValueError("a bug")

    results = await asyncio.gather(
        *(database.write_soon(write) for write in (add(1), wrong, add(2), wrong, add(3))), return_exceptions=True
    )
    assert [result if isinstance(result, int) else str(result) for result in results] == [10, "a bug", 20, "a bug", 30]
    assert lines(path) == [1, 2, 3]
    assert database.write(add(4)) == 40


@pytest.mark.parametrize("read_error", [sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_CORRUPT])
def test_error_of_a_commit_is_final_and_told_once(path: Path, monkeypatch: pytest.MonkeyPatch, read_error: int) -> None:
    # Commits: one that works, one that fails, and then the disk would work again.
    breaker = Breaker(monkeypatch, [None, read_error])
    told: list[Exception] = []
    database = Database(path, on_failure=told.append)
    database.start(SCHEMA)
    database.write(add(1))
    with pytest.raises(DatabaseError, match=f"{path}: disk I/O error"):
        database.write(add(2))
    with pytest.raises(DatabaseError, match="disk I/O error"):
        database.write(add(3))
    assert len(told) == 1
    assert breaker.commits == 2
    database.close()
    assert lines(path) == [1]


async def test_writes_that_wait_when_it_fails_all_get_to_know(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Breaker(monkeypatch, [sqlite3.SQLITE_IOERR])
    database = Database(path)
    database.start(SCHEMA)
    go = threading.Event()
    writes: list[asyncio.Future[Any]] = [database.write_soon(lambda _: go.wait(10))]
    writes += [database.write_soon(add(n)) for n in range(5)]
    go.set()
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert {type(result) for result in results} == {DatabaseError}
    await asyncio.get_running_loop().run_in_executor(None, database.close)
    assert lines(path) == []


def test_full_disk_is_waited_for_and_told_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    breaker = Breaker(monkeypatch, [None, sqlite3.SQLITE_FULL, sqlite3.SQLITE_FULL, sqlite3.SQLITE_FULL])
    full: list[bool] = []
    failed: list[Exception] = []
    database = Database(path, on_full=full.append, on_failure=failed.append, retry_after=0.01)
    database.start(SCHEMA)
    database.write(add(1))
    assert full == []
    assert database.write(add(2)) == 20
    assert (full, failed) == ([True, False], [])
    assert breaker.commits == 5
    database.close()
    assert lines(path) == [1, 2]


def test_full_disk_at_the_end_is_not_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Breaker(monkeypatch, [sqlite3.SQLITE_FULL] * 100)
    full = threading.Event()
    database = Database(path, on_full=lambda _: full.set(), retry_after=60)
    database.start(SCHEMA)
    with ThreadPoolExecutor(1) as threads:
        write = threads.submit(database.write, add(1))
        assert full.wait(10)
        database.close()
        with pytest.raises(DatabaseError, match="full"):
            write.result(10)
    assert lines(path) == []


def test_end_commits_what_is_queued(path: Path) -> None:
    async def fill() -> None:
        database = Database(path)
        database.start(SCHEMA)
        for n in range(100):
            database.write_soon(add(n))
        await asyncio.get_running_loop().run_in_executor(None, database.close)

    asyncio.run(fill())
    assert lines(path) == list(range(100))


def test_reader_cannot_write_and_sees_the_last_commit(database: Database) -> None:
    with database.reading() as reader:
        assert reader.execute("SELECT count(*) FROM line").fetchone() == (0,)
        database.write(add(1))
        assert reader.execute("SELECT count(*) FROM line").fetchone() == (1,)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader.execute("INSERT INTO line VALUES (5)")


@pytest.mark.parametrize("content", [b"garbage " * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_file_that_is_no_database_is_named_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(DatabaseError, match=f"{path}: "):
        Database(path).start(SCHEMA)
    assert path.read_bytes() == content


def test_close_stops_a_thread_that_reads_and_answers_one_that_comes_too_late(path: Path) -> None:
    database = Database(path)
    database.start(SCHEMA)
    begun = threading.Event()
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"

    def read() -> None:
        with database.reading() as reader:
            begun.set()
            reader.execute(endless).fetchone()

    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(read)
        assert begun.wait(10)
        database.close()
        with pytest.raises(DatabaseError, match="is closed"):
            reading.result(10)
        with pytest.raises(DatabaseError, match="is closed"):
            threads.submit(read).result(10)
        with pytest.raises(DatabaseError, match="is closed"):
            database.write(add(1))
        with pytest.raises(DatabaseError, match="is closed"), database.reading() as reader:
            reader.execute("SELECT 1")
