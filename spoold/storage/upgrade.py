"""Which version's database it is: a newer one's is refused and stays as it is, an older one's is kept and brought up to date.

The copy, `spool.db.before-N`, is whole and durable before anything is changed, and the change is one transaction. Who is killed in
between does both again; so does who goes back to the copy and comes again, and the copy is that of the last time.
"""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from spoold.storage.database import Database, DatabaseError, connect, told
from spoold.storage.schema import SCHEMA, VERSION

#: SQLite's file format, 1.3: what a database begins with, how long that is, where its user_version stands.
_MAGIC = b"SQLite format 3\0"
_HEADER = 100
_USER_VERSION = 60
#: Pages that are copied in one step: some 40 MB.
_PAGES = 10_000


def form_of(path: Path) -> int | None:
    """The form of the database at `path`, None where there is none. Changes nothing, makes no file. Raises DatabaseError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DatabaseError(f"{path}: cannot be read: {error.strerror}; expected the agent's own file") from None
    try:
        header = os.read(fd, _HEADER)
    except OSError as error:
        raise DatabaseError(f"{path}: cannot be read: {error.strerror}") from None
    finally:
        os.close(fd)
    if not _is_empty(Path(f"{path}-wal")):
        return _form_in_log(path)
    if not header.startswith(_MAGIC) or len(header) < _HEADER:
        return None  # empty, or damaged: who opens it is told
    return int.from_bytes(header[_USER_VERSION : _USER_VERSION + 4], signed=True)


def refuse_newer(path: Path, form: int | None) -> None:
    """Raises DatabaseError where a newer version wrote it."""
    if form is not None and form > VERSION:
        raise DatabaseError(
            f"{path}: was written by a newer version (form {form}, expected {VERSION}); use that version's program"
        )


def open_database(
    path: Path,
    *,
    on_failure: Callable[[Exception], None] = lambda _: None,
    on_full: Callable[[bool], None] = lambda _: None,
    on_commit: Callable[[float], None] = lambda _: None,
    copying: Callable[[], object] = lambda: None,
) -> tuple[Database, Path | None]:
    """The database, of this version's form and started, and the copy of what it was if it was older. For whoever has the spool's
    lock; `copying` is called while that is made. Raises DatabaseError."""
    form = form_of(path)
    refuse_newer(path, form)
    copy = _keep(path, form, copying) if form is not None and form < VERSION else None
    database = Database(path, on_failure=on_failure, on_full=on_full, on_commit=on_commit)
    try:
        database.start(SCHEMA)
    except BaseException:
        database.close()
        raise
    return database, copy


def _is_empty(path: Path) -> bool:
    try:
        return path.lstat().st_size == 0
    except FileNotFoundError:
        return True


def _form_in_log(path: Path) -> int | None:
    """The header may be older than the log beside it, which is there already."""
    try:
        with closing(connect(path, read_only=True)) as connection:
            return int(connection.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.Error as error:
        raise told(path, error) from None


def _keep(path: Path, form: int, copying: Callable[[], object]) -> Path | None:
    """A copy of the database as it is, log and all; none of one that has no tables yet."""
    copy = path.with_name(f"{path.name}.before-{form}")
    part = path.with_name(f".{copy.name}.tmp")
    try:
        with closing(connect(path, read_only=True)) as source:
            if source.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
                return None
            with suppress(FileNotFoundError):
                part.unlink()
            os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            with closing(connect(part)) as target:
                source.backup(target, pages=_PAGES, progress=lambda *_: copying())
        _sync(part)
        part.replace(copy)
        _sync(path.parent)
    except (sqlite3.Error, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        with suppress(OSError):
            part.unlink()
        raise DatabaseError(
            f"{copy}: the database of the older version could not be kept: {reason}; nothing was changed; free"
            f" {_megabytes(path)} MB there, then start again"
        ) from None
    return copy


def _megabytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*")) // 1_000_000 + 1


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
