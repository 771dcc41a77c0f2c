"""The hot path of the store: intents before a message leaves, outcomes after, in batches whose size follows the load.

While one batch is being committed the next one collects, so that a lone message is written at once and a hundred connections share a
commit. Within a batch outcomes come before intents: no connection gets ahead of its own record.
"""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from spoold.core.state import Transition
from spoold.storage.database import Database, DatabaseError
from spoold.storage.record import Record, job_of
from spoold.storage.slab import Slab, insert

_END_CLAIM = Slab("DELETE FROM claim WHERE id IN (", "?", ")")
_CLAIM = Slab("INSERT OR IGNORE INTO claim SELECT id, ?, ? FROM recipient WHERE id IN (", "?", ") AND due_at <= ?")
_UPDATE = Slab(
    """UPDATE recipient SET state = v.column2, due_at = v.column3, attempts = v.column4, first_attempt_at = v.column5,
    last_attempt_at = v.column6, code = v.column7, status = v.column8, diagnostic = v.column9, remote_mta = v.column10,
    category = v.column11 FROM (VALUES""",
    "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    ") AS v WHERE recipient.id = v.column1",
)
_ATTEMPT = insert("attempt (job_id, recipient_id, at, number, result, code, status, diagnostic, relay, remote_mta)", 10)
_ADD = "ON CONFLICT DO UPDATE SET n = n + excluded.n"
_STATE_TALLY = insert("state_tally", 3, _ADD)
_DOMAIN_TALLY = insert("domain_tally", 4, _ADD)
_REPLY_TALLY = insert("reply_tally", 7, _ADD)
_TIME_TALLY = insert("time_tally", 4, _ADD)


class Tallies:
    """Collects one commit's changes to the four tallies."""

    def __init__(self) -> None:
        self._domains: Counter[tuple[int, str, int]] = Counter()
        self._replies: dict[tuple[int, str, int, str, str], tuple[str, int]] = {}
        self._attempts: Counter[int] = Counter()
        self._times: Counter[tuple[int, int, str]] = Counter()

    def moved(self, job_id: int, domain: str, before: int, after: int, times: int = 1) -> None:
        """So many recipients in `domain` went from one state to another."""
        if before != after:
            self._domains[job_id, domain, before] -= times
            self._domains[job_id, domain, after] += times

    def replied(
        self, job_id: int, result: str, code: int | None, status: str, category: str | None, text: str, times: int = 1
    ) -> None:
        """So many recipients got this answer."""
        key = (job_id, result, code or 0, status, category or "")
        example, count = self._replies.get(key, (text, 0))
        self._replies[key] = (example, count + times)

    def attempted(self, job_id: int, at: float, result: str, times: int = 1) -> None:
        """There were so many attempts more, all at the same moment."""
        self._attempts[job_id] += times
        self._times[job_id, int(at), result] += times

    def write(self, connection: sqlite3.Connection) -> None:
        """Add all this to the tables."""
        states: Counter[tuple[int, int]] = Counter()
        for (job_id, _, state), count in self._domains.items():
            states[job_id, state] += count
        _STATE_TALLY.run(connection, [(*key, count) for key, count in states.items() if count])
        _DOMAIN_TALLY.run(connection, [(*key, count) for key, count in self._domains.items() if count])
        _REPLY_TALLY.run(connection, [(*key, example, count) for key, (example, count) in self._replies.items()])
        _TIME_TALLY.run(connection, [(*key, count) for key, count in self._times.items()])
        for job_id, count in self._attempts.items():
            connection.execute("UPDATE job SET attempts = attempts + ? WHERE id = ?", (count, job_id))


#: How many claims are told apart that bear the same moment, in microseconds too.
_CLAIMS = 4096


@dataclass(frozen=True, slots=True)
class _Claim:
    ids: Sequence[int]
    relay: str
    at: float
    """Names the claim: no two have the same."""
    due: float
    """Whoever is due at this moment may be claimed."""
    tats: Sequence[tuple[str, float]]
    granted: "asyncio.Future[list[int]]"


@dataclass(slots=True)
class _Batch:
    """What goes into one commit, and who waits for it."""

    records: list[Record] = field(default_factory=list)
    released: list[int] = field(default_factory=list)
    claims: list[_Claim] = field(default_factory=list)
    waiting: "list[asyncio.Future[None]]" = field(default_factory=list)

    def write(self, connection: sqlite3.Connection) -> list[list[int]]:
        """Returns the ids granted to each claim."""
        if self.records:
            self._outcomes(connection)
        if self.released:
            _END_CLAIM.run(connection, [(id_,) for id_ in self.released])
        return [_grant(connection, claim) for claim in self.claims]

    def _outcomes(self, connection: sqlite3.Connection) -> None:
        ended, updates, attempts = [], [], []
        moves: dict[tuple[int, str, int, int], int] = {}
        runs: list[tuple[int, float, Transition]] = []
        lengths: list[int] = []
        job, moment, same = 0, 0.0, None
        for recipient, transition, relay, remote_mta, at, counted in self.records:
            id_ = recipient.id
            ended.append((id_,))
            if not counted:
                connection.execute("UPDATE recipient SET due_at = ? WHERE id = ?", (transition.due_at, id_))
                continue
            job_id = job_of(id_)
            if transition is not same or job_id != job or at != moment:
                # Most recipients of a job share it, one after the other: what follows from it is looked up once.
                job, moment, same = job_id, at, transition
                state, number, first, due_at, (_, status, diagnostic, code, category) = transition
                value, result = int(state), state.label
                runs.append((job_id, at, transition))
                lengths.append(0)
            lengths[-1] += 1
            updates.append((id_, value, due_at, number, first, at, code, status, diagnostic, remote_mta, category))
            attempts.append((job_id, id_, at, number, result, code, status, diagnostic, relay, remote_mta))
            move = (job_id, recipient.domain, recipient.state, value)
            moves[move] = moves.get(move, 0) + 1
        _END_CLAIM.run(connection, ended)
        _UPDATE.run(connection, updates)
        _ATTEMPT.run(connection, attempts)
        tallies = Tallies()
        for (job_id, domain, before, after), times in moves.items():
            tallies.moved(job_id, domain, before, after, times)
        for (job_id, at, (state, _, _, _, outcome)), times in zip(runs, lengths, strict=True):
            tallies.attempted(job_id, at, state.label, times)
            tallies.replied(
                job_id, state.label, outcome.code, outcome.status, outcome.category, outcome.diagnostic, times
            )
        tallies.write(connection)

    def resolve(self, granted: list[list[int]]) -> None:
        for claim, ids in zip(self.claims, granted, strict=True):
            if not claim.granted.done():
                claim.granted.set_result(ids)
        for future in self.waiting:
            if not future.done():
                future.set_result(None)

    def fail(self, error: BaseException) -> None:
        futures: list[asyncio.Future[Any]] = [*(claim.granted for claim in self.claims), *self.waiting]
        for future in futures:
            if not future.done():
                future.set_exception(error)
                future.exception()  # an abandoned future must not warn; whoever waits still gets it


def _grant(connection: sqlite3.Connection, claim: _Claim) -> list[int]:
    if claim.tats:
        connection.executemany("INSERT OR REPLACE INTO limiter VALUES (?, ?)", claim.tats)
    ids = [(id_,) for id_ in claim.ids]
    if _CLAIM.run(connection, ids, (claim.at, claim.relay), (claim.due,)) == len(ids):
        return list(claim.ids)
    # Some were sent, or claimed, already; no other claim has this moment.
    known = connection.execute("SELECT id FROM claim WHERE at = ?", (claim.at,)).fetchall()
    granted = {id_ for (id_,) in known}
    return [id_ for id_ in dict.fromkeys(claim.ids) if id_ in granted]


class Journal:
    """See the module. For the event loop; what it returns resolves when it is durable."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._next = _Batch()
        self._writing = False
        self._claims = 0

    def claim(
        self, ids: Sequence[int], relay: str, now: float, tats: Sequence[tuple[str, float]] = ()
    ) -> "asyncio.Future[list[int]]":
        """Write the intent to send, and the state of the rates that it used up.

        Resolves to those of `ids` that were still to be sent and not claimed already.
        """
        granted: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        # Two claims of one moment, or of one that comes twice because the clock was set back, differ by what is counted in the last
        # four milliseconds.
        self._claims = (self._claims + 1) % _CLAIMS
        at = (int(now * 1e6) // _CLAIMS * _CLAIMS + self._claims) / 1e6
        self._next.claims.append(_Claim(ids, relay, at, now, tats, granted))
        self._write_soon()
        return granted

    def record(self, records: Sequence[Record]) -> "asyncio.Future[None]":
        """Write outcomes and end their claims."""
        self._next.records.extend(records)
        return self.settled()

    def release(self, ids: Sequence[int]) -> "asyncio.Future[None]":
        """End claims that came to nothing: no transaction was opened for them."""
        self._next.released.extend(ids)
        return self.settled()

    def set_back(self, back: float) -> None:
        """The clock was set back by so many seconds: what is to be written next is of the new one."""
        batch = self._next
        batch.records = [
            record._replace(
                at=record.at - back,
                transition=record.transition
                if record.transition.due_at is None
                else record.transition._replace(due_at=record.transition.due_at - back),
            )
            for record in batch.records
        ]
        batch.claims = [
            replace(claim, due=claim.due - back, tats=[(key, tat - back) for key, tat in claim.tats])
            for claim in batch.claims
        ]

    def settled(self) -> "asyncio.Future[None]":
        """Resolves when everything up to now is durable."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._next.waiting.append(future)
        self._write_soon()
        return future

    def _write_soon(self) -> None:
        """At the end of this round of the loop, or of the commit that is under way."""
        self._database.check()
        if not self._writing:
            self._writing = True
            asyncio.get_running_loop().call_soon(self._write)

    def _write(self) -> None:
        batch, self._next = self._next, _Batch()
        try:
            written = self._database.write_soon(batch.write)
        except DatabaseError as error:
            self._writing = False
            batch.fail(error)
            return
        written.add_done_callback(lambda future: self._written(batch, future))

    def _written(self, batch: _Batch, written: "asyncio.Future[list[list[int]]]") -> None:
        error = written.exception()
        if error is None:
            batch.resolve(written.result())
        else:
            batch.fail(error)
        self._writing = False
        if self._next.waiting or self._next.claims:
            self._writing = True
            asyncio.get_running_loop().call_soon(self._write)
