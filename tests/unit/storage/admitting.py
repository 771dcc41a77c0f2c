"""A database with jobs in it, made as intake makes them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from spoold.core.message.wire import MessageFacts
from spoold.core.state import JobState, Standing
from spoold.storage.admission import Admission, rows_of
from spoold.storage.database import Database
from spoold.storage.record import Admitted, NewMessage, NewRecipient
from spoold.storage.schema import SCHEMA

FACTS = MessageFacts(100, False, False, b"")
NOW = 1_000_000.0


@contextmanager
def opened(folder: Path) -> Iterator[Database]:
    """A new database in `folder`, with the tables in it."""
    database = Database(folder / "spool.db")
    database.start(SCHEMA)
    yield database
    database.close()


def recipient(line: int, address: str, message: int | None, *, failed: bool = False) -> NewRecipient:
    failure = ("5.1.3", "no address", "bad-mailbox") if failed else None
    return NewRecipient(line, address, address.partition("@")[2], False, message, None, failure)


def admit(database: Database, name: str, addresses: Sequence[str], *, digest: bytes = b"", bad: int = 0) -> int:
    """An accepted job of these addresses and `bad` more that have failed already; returns its id."""
    admission = Admission(database, lambda _: True)
    job_id = admission.begin(name, NOW)
    rows = [recipient(line, address, 1) for line, address in enumerate(addresses, 2)]
    rows += [recipient(1000 + n, f"bad{n}", 1, failed=True) for n in range(bad)]
    half = len(rows) // 2
    admission.add(job_id, [NewMessage(1, "message.eml", b"hash", FACTS)], 1, rows_of(rows[:half]), NOW)
    admission.add(job_id, [], half + 1, rows_of(rows[half:]), NOW)
    standing = Standing(JobState.SENDING)
    admitted = Admitted(name, b"", 4711, digest or name.encode(), standing, ("a warning",), (), False, False)
    admission.accept(job_id, admitted)
    return job_id
