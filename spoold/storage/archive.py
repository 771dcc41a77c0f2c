"""Reading the database from beside the agent: what a job that is done was made of. Writes nothing, needs no lock."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import orjson

from spoold.core.message.wire import MessageFacts
from spoold.core.state import RecipientState
from spoold.storage.record import JobRow, id_range
from spoold.storage.snapshot import Snapshot
from spoold.storage.spooldir import Spool
from spoold.storage.store import Store

_CHUNK = 2000


@dataclass(frozen=True, slots=True)
class Recipient:
    """A recipient as it came; `extra` has its other columns, `message` the path of the message that it was to get."""

    address: str
    message: str | None
    extra: dict[str, str]


class Undelivered(NamedTuple):
    """A recipient whose mail did not arrive, or not yet; `number` counts the job's recipients from 1, moments are POSIX
    seconds, `message` is the path of its message.
    """

    number: int
    line: int
    address: str
    state: RecipientState
    attempts: int
    code: int | None
    status: str | None
    diagnostic: str | None
    remote_mta: str | None
    first_attempt_at: float | None
    last_attempt_at: float | None
    message: str | None


class Archive:
    """See the module. A context manager, for one thread; raises DatabaseError where no agent has ever run, or one of
    another version.
    """

    def __init__(self, spool: Spool) -> None:
        self._snapshot = Snapshot(spool.database)
        self._store = Store(self._snapshot)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._snapshot.close()

    def job(self, name: str) -> JobRow | None:
        """The accepted job of this name."""
        job_id = next((job_id for job_id, other, _ in self._store.places() if other == name), None)
        return None if job_id is None else self._store.job(job_id)

    def ended_before(self, moment: float) -> list[str]:
        """The names of the jobs that were done before the moment, POSIX seconds."""
        return sorted(name for _, name in self._store.ended_before(moment))

    def recipients(self, job_id: int, states: Sequence[RecipientState]) -> Iterator[Recipient]:
        """Those in one of `states`, in the order of the file."""
        for _, address, message, extra in self._select("r.address, m.path, r.extra", job_id, states):
            yield Recipient(address, message, orjson.loads(extra) if extra else {})

    def undelivered(self, job_id: int, states: Sequence[RecipientState]) -> Iterator[Undelivered]:
        """Those in one of `states`, in the order of the file."""
        first, _ = id_range(job_id)
        columns = (
            "r.line, r.address, r.state, r.attempts, r.code, r.status, r.diagnostic, r.remote_mta,"
            " r.first_attempt_at, r.last_attempt_at, m.path"
        )
        for row in self._select(columns, job_id, states):
            yield Undelivered(row[0] - first, row[1], row[2], RecipientState(row[3]), *row[4:])

    def _select(self, columns: str, job_id: int, states: Sequence[RecipientState]) -> Iterator[tuple[Any, ...]]:
        """The ids and `columns` of the job's recipients in one of `states`, in short reads."""
        low, high = id_range(job_id)
        wanted = orjson.dumps([int(state) for state in states]).decode()
        with self._snapshot.reading() as reader:
            while True:
                rows = reader.execute(
                    f"SELECT r.id, {columns} FROM recipient r LEFT JOIN message m ON m.id = r.message_id"  # noqa: S608 - ours
                    " WHERE r.id BETWEEN ? AND ? AND r.state IN (SELECT value FROM json_each(?)) ORDER BY r.id LIMIT ?",
                    (low, high, wanted, _CHUNK),
                ).fetchall()
                yield from rows
                if len(rows) < _CHUNK:
                    return
                low = rows[-1][0] + 1

    def digest(self, job_id: int, path: str) -> bytes | None:
        """The SHA-256 of a message of the job as it was taken, None if it was none that could be sent."""
        low, high = id_range(job_id)
        with self._snapshot.reading() as reader:
            row = reader.execute(
                "SELECT sha256 FROM message WHERE id BETWEEN ? AND ? AND path = ?", (low, high, path)
            ).fetchone()
        return None if row is None else row[0]

    def facts(self, job_id: int, path: str) -> MessageFacts | None:
        """What was found out about a message of the job, None if it cannot be sent."""
        low, high = id_range(job_id)
        with self._snapshot.reading() as reader:
            row = reader.execute(
                "SELECT size, eight_bit, eight_bit_header, added FROM message WHERE id BETWEEN ? AND ? AND path = ?",
                (low, high, path),
            ).fetchone()
        return None if row is None or row[0] is None else MessageFacts(row[0], bool(row[1]), bool(row[2]), row[3])
