"""Reading the database for reports: exact counts from the tallies, long lists in short reads.

A list is read in chunks, each a transaction of its own, so that a report of a million rows keeps no snapshot open.
"""

import sqlite3
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from spoold.core.state import RecipientState
from spoold.storage.database import Database
from spoold.storage.record import id_range
from spoold.storage.slab import as_text, at_once, fetch

#: An id that no attempt has more than.
LAST = 2**63 - 1
_CHUNK = 2000

_STATES = tuple(RecipientState)


class RecipientRow(NamedTuple):
    """One recipient as reports show it; times are POSIX seconds."""

    line: int
    address: str
    state: RecipientState
    attempts: int
    code: int | None
    status: str | None
    diagnostic: str | None
    remote_mta: str | None
    category: str | None
    last_attempt_at: float | None
    due_at: float | None
    message: str | None


class Wording(NamedTuple):
    """SQL expressions that make text of a row, where no other thread waits for Python's lock: `plain` as long as its text
    `holds` for so many rows, else `careful`, which takes longer.
    """

    plain: str
    careful: str
    holds: Callable[[str, int], bool]


@dataclass(frozen=True, slots=True)
class ReplyTally:
    """How often one kind of reply was given, with an example of its text."""

    result: str
    code: int | None
    status: str
    category: str | None
    example: str
    count: int


def _of_recipients(states: Collection[RecipientState] = _STATES) -> str:
    among = f" AND r.state IN ({', '.join(f'{state:d}' for state in states)})" if len(states) < len(_STATES) else ""
    return (
        "FROM recipient r LEFT JOIN message m ON m.id = r.message_id LEFT JOIN claim c ON c.id = r.id"
        f" WHERE r.id BETWEEN ? AND ?{among} ORDER BY r.id LIMIT ?"
    )


_RECIPIENTS = at_once(
    "r.id, r.line, r.address, CASE WHEN c.id IS NULL THEN r.state ELSE 2 END AS state, r.attempts, r.code, r.status,"
    " r.diagnostic, r.remote_mta, r.category, r.last_attempt_at, r.due_at, m.path",
    _of_recipients(),
)
_DOMAINS = (
    "SELECT json_group_array(json_array(domain, json(counts))), NULL FROM"
    " (SELECT domain, json_group_object(state, n) FILTER (WHERE n != 0) AS counts, sum(n) AS total FROM domain_tally"
    " WHERE job_id = ? GROUP BY domain ORDER BY total DESC, domain LIMIT ?)"
)
_UNSENT = at_once(
    "domain, sum(n) AS unsent", "FROM domain_tally WHERE job_id = ? AND state < ? GROUP BY domain HAVING sum(n) > 0"
)
_OF_ATTEMPTS = (
    "FROM attempt a JOIN recipient r ON r.id = a.recipient_id LEFT JOIN message m ON m.id = r.message_id"
    " WHERE a.job_id = ? AND a.id > ? AND a.id <= ? ORDER BY a.id LIMIT ?"
)


class Ledger:
    """See the module."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def counts(self, job_id: int) -> dict[RecipientState, int]:
        """Recipients by state, those in open transactions as *sending*; they add up to the job's total."""
        low, high = id_range(job_id)
        with self._database.reading() as reader:
            # One statement, one snapshot: a commit between two would let the sum go wrong.
            rows = reader.execute(
                # (CROSS keeps SQLite from going through all recipients to see which of them are claimed.)
                "SELECT state, n FROM state_tally WHERE job_id = ? UNION ALL"
                " SELECT -1 - r.state, count(*) FROM claim c CROSS JOIN recipient r ON r.id = c.id"
                " WHERE c.id BETWEEN ? AND ? GROUP BY r.state",
                (job_id, low, high),
            ).fetchall()
        counts = dict.fromkeys(RecipientState, 0)
        for state, count in rows:
            if state >= 0:
                counts[RecipientState(state)] += count
            else:
                counts[RecipientState(-1 - state)] -= count
                counts[RecipientState.SENDING] += count
        return counts

    def domains(self, job_id: int, limit: int) -> list[tuple[str, dict[RecipientState, int]]]:
        """The `limit` domains with most recipients, each with its recipients by state (*sending* as what it was
        before).
        """
        with self._database.reading() as reader:
            rows, _ = fetch(reader, _DOMAINS, (job_id, limit))
        return [(domain, {_STATES[int(state)]: n for state, n in counts.items()}) for domain, counts in rows]

    def unsent_by_domain(self, job_id: int) -> dict[str, int]:
        """Recipients that are still to be sent, by domain."""
        with self._database.reading() as reader:
            rows, _ = fetch(reader, _UNSENT, (job_id, int(RecipientState.SENT)))
        return dict(rows)

    def replies(self, job_id: int, limit: int) -> list[ReplyTally]:
        """The `limit` most frequent kinds of reply."""
        with self._database.reading() as reader:
            rows = reader.execute(
                "SELECT result, code, status, category, example, n FROM reply_tally WHERE job_id = ?"
                " ORDER BY n DESC, result, code, status LIMIT ?",
                (job_id, limit),
            ).fetchall()
        return [ReplyTally(row[0], row[1] or None, row[2], row[3] or None, row[4], row[5]) for row in rows]

    def attempt_count(self, job_id: int) -> tuple[int, float | None, float | None]:
        """How many attempts there were, and when the first and the last."""
        with self._database.reading() as reader:
            count = reader.execute("SELECT attempts FROM job WHERE id = ?", (job_id,)).fetchone()[0]
            ends = reader.execute(
                "SELECT (SELECT at FROM attempt WHERE job_id = ?1 ORDER BY id LIMIT 1),"
                " (SELECT at FROM attempt WHERE job_id = ?1 ORDER BY id DESC LIMIT 1)",
                (job_id,),
            ).fetchone()
        return int(count or 0), ends[0], ends[1]

    def attempt_span(self, job_id: int) -> tuple[int, int] | None:
        """The whole seconds (POSIX) of the job's earliest and latest attempt, None before the first."""
        with self._database.reading() as reader:
            first, last = reader.execute(
                "SELECT (SELECT min(second) FROM time_tally WHERE job_id = ?1),"
                " (SELECT max(second) FROM time_tally WHERE job_id = ?1)",
                (job_id,),
            ).fetchone()
        return None if first is None else (first, last)

    def attempt_tallies(self, job_id: int, origin: int, width: int, last: int) -> list[tuple[int, str, int]]:
        """The attempts up to the second `last`, counted: (interval, result, count).

        Intervals are `width` seconds from `origin` (POSIX seconds) on, which is not after the first attempt.
        """
        with self._database.reading() as reader:
            return reader.execute(
                "SELECT (second - ?1) / ?2 AS interval, result, sum(n) FROM time_tally WHERE job_id = ?3 AND second <= ?4"
                " GROUP BY 1, 2",
                (origin, width, job_id, last),
            ).fetchall()

    def recipients(self, job_id: int) -> Iterator[RecipientRow]:
        """The recipients in the order of the file."""
        low, high = id_range(job_id)
        with self._database.reading() as reader:
            while True:
                rows, _ = fetch(reader, _RECIPIENTS, (low, high, _CHUNK))
                for _, line, address, state, *rest in rows:
                    yield RecipientRow(line, address, _STATES[state], *rest)
                if len(rows) < _CHUNK:
                    return
                low = rows[-1][0] + 1

    def recipient_texts(
        self, job_id: int, wording: Wording, states: Collection[RecipientState] = _STATES
    ) -> Iterator[str]:
        """The same as text, many rows at a time: all, or those whose state (*sending* being what it was before) is one of
        `states`.

        Worded over the rows `r` of recipient, `m` of its message and `c` of its claim, where there are such.
        """
        low, high = id_range(job_id)
        for text, _ in self._texts("r.id", wording, _of_recipients(states), lambda last: (last + 1, high), low - 1):
            yield text

    def attempt_texts(
        self,
        job_id: int,
        after: int,
        until: int,
        wording: Wording,
        told: Callable[[float], tuple[object, ...]] = lambda _: (),
    ) -> Iterator[tuple[str, int]]:
        """The attempts with an id above `after`, up to `until`, as text, many at a time, each time with the last one's id.

        Worded over the rows `a` of attempt, `r` of its recipient and `m` of the message, where there is one. The parameters
        of the plain wording are what `told` says of the moment of the first of these attempts.
        """

        def first(reader: sqlite3.Connection, last: int) -> tuple[object, ...]:
            row = reader.execute(
                "SELECT at FROM attempt WHERE job_id = ? AND id > ? ORDER BY id LIMIT 1", (job_id, last)
            ).fetchone()
            return told(row[0] if row is not None else 0.0)

        return self._texts("a.id", wording, _OF_ATTEMPTS, lambda last: (job_id, last, until), after, first)

    def _texts(
        self,
        id_: str,
        wording: Wording,
        select: str,
        values: Callable[[int], tuple[object, ...]],
        last: int,
        told: Callable[[sqlite3.Connection, int], tuple[object, ...]] = lambda reader, last: (),
    ) -> Iterator[tuple[str, int]]:
        """What `select` gives for the `values` that ask for the rows behind the id `last`; `told` are the plain wording's."""
        plain, careful = (as_text(id_, words, select) for words in (wording.plain, wording.careful))
        with self._database.reading() as reader:
            while True:
                bound = (*values(last), _CHUNK)
                text, count, reached = reader.execute(plain, (*told(reader, last), *bound)).fetchone()
                if count and not wording.holds(text, count):
                    text, count, reached = reader.execute(careful, bound).fetchone()
                if count:
                    yield text, reached
                if count < _CHUNK:
                    return
                last = reached
