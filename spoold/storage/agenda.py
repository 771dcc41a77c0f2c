"""Which recipients are to be tried, and when: all that sending reads, and the orders that change it.

`due_at` of a recipient is NULL where it is not to be tried by itself; a partial index on (job, due_at) answers every question
here. Moments are POSIX seconds.
"""

import asyncio
from collections.abc import Sequence

import orjson

from spoold.core.state import RecipientState
from spoold.storage.database import Database
from spoold.storage.record import DueRecipient, Message, id_range
from spoold.storage.slab import at_once, fetch

# The last row's due_at is where the next read begins, and must be exact.
_DUE = at_once(
    "id, address, domain, smtputf8, message_id, state, attempts, first_attempt_at, due_at",
    "FROM recipient WHERE job_id = ? AND due_at IS NOT NULL AND due_at <= ? AND (due_at, id) > (?, ?) {also}"
    " ORDER BY due_at, id LIMIT ?",
    "max(due_at)",
)
_MESSAGES = at_once(
    "id, path, hex(sha256) AS sha256, size, eight_bit, eight_bit_header, hex(added) AS added",
    "FROM message WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id LIMIT -1",
)
_STATES = tuple(RecipientState)


class Agenda:
    """See the module. Methods that return a future are for the event loop and resolve when the write is durable; the others
    are for threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def due(
        self, job_id: int, now: float, after: tuple[float, int], limit: int, without: Sequence[str] = ()
    ) -> list[DueRecipient]:
        """Recipients due at `now` that come after (due_at, id), in that order, but for the domains in `without`.

        Claimed ones are among them.
        """
        also = f"AND domain NOT IN ({', '.join('?' * len(without))})" if without else ""
        return self._due(_DUE.format(also=also), (job_id, now, *after, *without, limit))

    def due_in(self, job_id: int, now: float, domain: str, after: tuple[float, int], limit: int) -> list[DueRecipient]:
        """The same of one domain."""
        return self._due(_DUE.format(also="AND domain = ?"), (job_id, now, *after, domain, limit))

    def _due(self, query: str, values: tuple[object, ...]) -> list[DueRecipient]:
        with self._database.reading() as reader:
            rows, last = fetch(reader, query, values)
            wanted = orjson.dumps(list({row[4] for row in rows})).decode()
            found, _ = fetch(reader, _MESSAGES, (wanted,))
        if rows:
            rows[-1][-1] = last
        messages = {
            id_: Message(id_, path, bytes.fromhex(sha256), size, eight_bit, eight_bit_header, bytes.fromhex(added))
            for id_, path, sha256, size, eight_bit, eight_bit_header, added in found
        }
        return [
            DueRecipient(id_, address, domain, smtputf8, messages[message], _STATES[state], attempts, first, due_at)
            for id_, address, domain, smtputf8, message, state, attempts, first, due_at in rows
            if message in messages  # a job may be forgotten between the two looks
        ]

    def first_due(self, job_ids: Sequence[int]) -> dict[int, float | None]:
        """The first moment at which a recipient of each job is due; None where none is to be tried by itself."""
        with self._database.reading() as reader:
            found = reader.execute(
                "SELECT value, (SELECT min(due_at) FROM recipient WHERE job_id = value AND due_at IS NOT NULL)"
                " FROM json_each(?)", (orjson.dumps(job_ids).decode(),),
            )  # fmt: skip
            return dict(found.fetchall())

    def next_due(self, job_id: int, now: float) -> float | None:
        """The first moment after `now` at which a recipient of the job is due."""
        with self._database.reading() as reader:
            row = reader.execute(
                "SELECT min(due_at) FROM recipient WHERE job_id = ? AND due_at IS NOT NULL AND due_at > ?",
                (job_id, now),
            ).fetchone()
        return None if row is None or row[0] is None else float(row[0])

    def retry_now(self, job_id: int, now: float, *, uncertain: bool = False) -> "asyncio.Future[int]":
        """Make deferred (or uncertain) recipients due at `now`; resolves to how many."""
        low, high = id_range(job_id)
        state = RecipientState.UNCERTAIN if uncertain else RecipientState.DEFERRED
        return self._database.write_soon(
            lambda connection: (
                connection.execute(
                    "UPDATE recipient SET due_at = ? WHERE id BETWEEN ? AND ? AND state = ?"
                    " AND (due_at IS NULL OR due_at > ?) AND id NOT IN (SELECT id FROM claim)",
                    (now, low, high, int(state), now),
                ).rowcount
            )
        )
