"""Putting jobs into the database: each is invisible until one commit says *accepted*.

A large one goes in chunk by chunk before that; any number of small ones go in whole, in one commit. For intake's
threads; every method returns when its writes are durable.
"""

import os
import secrets
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import orjson

from spoold.core.state import JobState, RecipientState
from spoold.failpoint import failpoint
from spoold.storage import outbox
from spoold.storage.database import Database, silent
from spoold.storage.record import Admitted, NewMessage, NewRecipient, id_in_job, id_range

#: One statement a chunk: SQLite reads the rows out of JSON by itself. Row by row, the thread would have to get hold of
#: Python's lock again after each of them, up to 5 ms every time while others send.
_INSERT_RECIPIENTS = f"""INSERT INTO recipient
    (id, job_id, line, address, domain, smtputf8, message_id, extra, state, due_at, status, diagnostic, category)
    SELECT ?1 + key, ?2, json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
    json_extract(value, '$[3]'), ?5 + json_extract(value, '$[4]'), json_extract(value, '$[5]'),
    iif(json_type(value, '$[6]') = 'null', {RecipientState.QUEUED:d}, {RecipientState.FAILED:d}),
    iif(json_type(value, '$[6]') = 'null', ?3, NULL),
    json_extract(value, '$[6][0]'), json_extract(value, '$[6][1]'), json_extract(value, '$[6][2]')
    FROM json_each(?4)"""  # noqa: S608 - our own numbers
_DELETE = 5000

#: An accepted job with the same content, unless nothing of that was ever going to be sent.
_TWIN = "SELECT name FROM job WHERE digest = ? AND accepted AND state != 'rejected' ORDER BY id LIMIT 1"

#: (status, category) of recipients that failed at once -> (an example of the diagnostic, how many).
_Failures = dict[tuple[str, str | None], tuple[str, int]]


class TwinError(Exception):
    """A job with the same content was accepted before; the text is its name."""


def rows_of(recipients: Sequence[NewRecipient]) -> bytes:
    """A chunk of recipients in the form that `Admission.add` takes."""
    return orjson.dumps(recipients, default=tuple)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A small job as a whole. No two of its recipients have the same address and message; all are due at `due_at`.

    Where it must be `unique`, an accepted job of the same content is in its way.
    """

    admitted: Admitted
    now: float
    due_at: float
    unique: bool
    messages: Sequence[NewMessage] = field(default=())
    recipients: Sequence[NewRecipient] = field(default=())


class Admission:
    """The writing of jobs that are being taken. `is_free` says whether a name is free in the spool's folders, too."""

    def __init__(self, database: Database, is_free: Callable[[str], bool]) -> None:
        self._database = database
        self._is_free = is_free

    @property
    def commits(self) -> int:
        """Grows with every commit, of whatever part of the agent."""
        return self._database.commits

    # --- small jobs -------------------------------------------------------------------------------------------------

    def accept_all(self, candidates: Sequence[Candidate]) -> list[tuple[int, str] | TwinError]:
        """Accept all of these in one commit; gives for each its id and its name, the upload's, or with .2, .3 …"""

        def put(connection: sqlite3.Connection, candidate: Candidate) -> tuple[int, str] | TwinError:
            twin = _twin(connection, candidate.admitted.digest) if candidate.unique else None
            if twin is not None:
                return TwinError(twin)
            job_id = _begin(connection, candidate.admitted.upload, candidate.now)
            _add(connection, job_id, candidate.messages, 1, rows_of(candidate.recipients), candidate.due_at)
            domains: Counter[tuple[str, int]] = Counter()
            failures: _Failures = {}
            for recipient in candidate.recipients:
                state = RecipientState.QUEUED if recipient.failure is None else RecipientState.FAILED
                domains[recipient.domain, state] += 1
                if recipient.failure is not None:
                    status, diagnostic, category = recipient.failure
                    example, count = failures.get((status, category), (diagnostic, 0))
                    failures[status, category] = (min(example, diagnostic), count + 1)
            return job_id, self._accept(connection, job_id, candidate.admitted, domains, failures)

        for _ in candidates:
            failpoint("before-accept")
        return self._database.write(lambda connection: [put(connection, candidate) for candidate in candidates])

    # --- a large job ------------------------------------------------------------------------------------------------

    def begin(self, upload: str, now: float) -> int:
        """A new job, not yet accepted; returns its id."""
        return self._database.write(lambda connection: _begin(connection, upload, now))

    def add(self, job_id: int, messages: Sequence[NewMessage], first: int, rows: bytes, due_at: float) -> None:
        """One chunk: messages, and then recipients (see `rows_of`). The first is the job's `first`-th, from 1."""
        self._database.write(lambda connection: _add(connection, job_id, messages, first, rows, due_at))
        failpoint("chunk-committed")

    def drop_duplicates(self, job_id: int, sample: int = 20) -> tuple[int, list[int]]:
        """Remove recipients whose address and message an earlier one has; returns how many, and some of their lines."""
        low, high = id_range(job_id)
        with self._database.reading() as reader:
            found = reader.execute(
                "SELECT id, line FROM (SELECT id, line, row_number() OVER (PARTITION BY address, message_id ORDER BY id)"
                " AS nth FROM recipient WHERE id BETWEEN ? AND ? AND state = 0) WHERE nth > 1 ORDER BY id",
                (low, high),
            ).fetchall()
        for start in range(0, len(found), _DELETE):
            self._delete_recipients([row[0] for row in found[start : start + _DELETE]])
        return len(found), [row[1] for row in found[:sample]]

    def _delete_recipients(self, ids: Sequence[int]) -> None:
        self._database.write(
            lambda connection: silent(
                connection.executemany("DELETE FROM recipient WHERE id = ?", [(id_,) for id_ in ids])
            )
        )

    def twin(self, digest: bytes) -> str | None:
        """The name of an accepted job with the same content, unless nothing of that was ever going to be sent."""
        with self._database.reading() as reader:
            return _twin(reader, digest)

    def accept(self, job_id: int, admitted: Admitted, *, unique: bool = False) -> str:
        """Make the job one that the agent answers for; returns the name that it got: the upload's, or with .2, .3 …

        Where it must be `unique`, raises TwinError and accepts nothing if an accepted job, maybe of this very moment, has
        the same content.
        """
        low, high = id_range(job_id)
        with self._database.reading() as reader:
            domains = Counter(
                {
                    (domain, state): count
                    for domain, state, count in reader.execute(
                        "SELECT domain, state, count(*) FROM recipient WHERE id BETWEEN ? AND ? GROUP BY domain, state",
                        (low, high),
                    )
                }
            )
            failures: _Failures = {
                (status, category): (example, count)
                for status, category, example, count in reader.execute(
                    "SELECT status, category, min(diagnostic), count(*) FROM recipient"
                    " WHERE id BETWEEN ? AND ? AND state = 5 GROUP BY status, category",
                    (low, high),
                )
            }
        failpoint("before-accept")

        def write(connection: sqlite3.Connection) -> str:
            twin = _twin(connection, admitted.digest) if unique else None
            if twin is not None:
                raise TwinError(twin)
            return self._accept(connection, job_id, admitted, domains, failures)

        return self._database.write(write)

    def _accept(
        self,
        connection: sqlite3.Connection,
        job_id: int,
        admitted: Admitted,
        domains: Counter[tuple[str, int]],
        failures: _Failures,
    ) -> str:
        states: Counter[int] = Counter()
        for (_, state), count in domains.items():
            states[state] += count
        name = _free_name(connection, admitted.upload, self._is_free)
        standing = admitted.standing
        outbox.told(connection, job_id, admitted.upload)
        if standing.state.final:
            outbox.put(connection, job_id)
        connection.execute(
            "UPDATE job SET name = ?, accepted = 1, manifest = ?, state = ?, reason = ?, next_at = ?, digest = ?, total = ?,"
            " claim = ?, held = ?, cancelled = ?, warnings = ?, errors = ? WHERE id = ?",
            (name, admitted.manifest, standing.state, standing.reason, standing.next_at, admitted.digest, sum(states.values()),
             admitted.claim, admitted.held, admitted.cancelled, orjson.dumps(admitted.warnings).decode(),
             orjson.dumps(admitted.errors).decode(), job_id),
        )  # fmt: skip
        if admitted.compact is not None:
            connection.execute(
                "INSERT OR REPLACE INTO compact VALUES (?, ?, ?)",
                (job_id, admitted.compact.key, admitted.compact.manifest),
            )
        connection.executemany(
            "INSERT INTO state_tally VALUES (?, ?, ?)", [(job_id, state, n) for state, n in states.items()]
        )
        connection.executemany(
            "INSERT INTO domain_tally VALUES (?, ?, ?, ?)",
            [(job_id, domain, state, n) for (domain, state), n in domains.items()],
        )
        connection.executemany(
            "INSERT INTO reply_tally VALUES (?, 'failed', 0, ?, ?, ?, ?)",
            [(job_id, status, category or "", example, n) for (status, category), (example, n) in failures.items()],
        )
        return name

    # --- afterwards, and at start -------------------------------------------------------------------------------------

    def settle(self, job_ids: Sequence[int] | None = None, *, but: Collection[int] = ()) -> None:
        """These jobs' uploads are out of the way and their reports are written; without `job_ids`, every job's, `but` these."""

        def write(connection: sqlite3.Connection) -> None:
            if job_ids is None:
                left = orjson.dumps(list(but)).decode()
                connection.execute(
                    "UPDATE job SET claim = NULL WHERE claim IS NOT NULL AND id NOT IN (SELECT value FROM json_each(?))",
                    (left,),
                )
            else:
                connection.executemany("UPDATE job SET claim = NULL WHERE id = ?", [(job_id,) for job_id in job_ids])

        self._database.write(write)

    def unsettled(self) -> list[int]:
        """The accepted jobs that were not settled and of which something is to be told before all else: those that
        ended with their intake, and those with recipients that failed at once.
        """
        with self._database.reading() as reader:
            found = reader.execute(
                "SELECT id FROM job WHERE accepted AND claim IS NOT NULL AND (state IN ('rejected', 'cancelled')"
                " OR EXISTS (SELECT 1 FROM state_tally WHERE job_id = id AND state_tally.state = ?))",
                (int(RecipientState.FAILED),),
            )
            return [row[0] for row in found]

    def claimed_by(self, upload: str, claim: int | None) -> tuple[str, JobState] | None:
        """(name, state) of the accepted job whose upload, of this name and inode, may still be in the way.

        Without the inode, where the upload was removed by its owner, of the last one of this name.
        """
        with self._database.reading() as reader:
            row = reader.execute(
                "SELECT j.name, j.state FROM job j WHERE j.accepted AND j.claim = ifnull(?, j.claim) AND j.upload = ?"
                " ORDER BY j.id DESC",
                (claim, os.fsencode(upload)),
            ).fetchone()
        return None if row is None else (row[0], JobState(row[1]))

    def empty(self, job_id: int) -> None:
        """Remove the recipients and messages of a job that is to be rejected."""
        low, high = id_range(job_id)
        for table in ("recipient", "message"):
            query = f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE id BETWEEN ? AND ? LIMIT ?)"  # noqa: S608
            while self._execute(query, (low, high, _DELETE)):
                pass

    def _execute(self, query: str, values: tuple[object, ...]) -> int:
        """One statement in a commit of its own; returns how many rows it changed."""
        return self._database.write(lambda connection: connection.execute(query, values).rowcount)

    def discard(self, job_id: int) -> None:
        """Remove a job that was not accepted."""
        self.empty(job_id)
        self._execute("DELETE FROM job WHERE id = ? AND NOT accepted", (job_id,))

    def discard_unaccepted(self) -> None:
        """At start: remove what a killed process had begun."""
        with self._database.reading() as reader:
            jobs = [row[0] for row in reader.execute("SELECT id FROM job WHERE NOT accepted")]
        for job_id in jobs:
            self.discard(job_id)


def _begin(connection: sqlite3.Connection, upload: str, now: float) -> int:
    cursor = connection.execute(
        "INSERT INTO job (name, upload, state, since, manifest, accepted_at) VALUES (?, ?, 'intake', ?, x'', ?)",
        (f"/{secrets.token_hex(16)}", os.fsencode(upload), now, now),
    )
    return int(cursor.lastrowid or 0)


def _add(
    connection: sqlite3.Connection,
    job_id: int,
    messages: Sequence[NewMessage],
    first: int,
    rows: bytes,
    due_at: float,
) -> None:
    connection.executemany(
        "INSERT INTO message VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (
                id_in_job(job_id, number),
                path,
                sha256,
                *((facts.size, facts.eight_bit, facts.eight_bit_header, facts.added) if facts else (None,) * 4),
            )
            for number, path, sha256, facts in messages
        ],
    )
    connection.execute(
        _INSERT_RECIPIENTS, (id_in_job(job_id, first), job_id, due_at, rows.decode(), id_in_job(job_id, 0))
    )


def _twin(connection: sqlite3.Connection, digest: bytes) -> str | None:
    row = connection.execute(_TWIN, (digest,)).fetchone()
    return None if row is None else str(row[0])


def _free_name(connection: sqlite3.Connection, wanted: str, is_free: Callable[[str], bool]) -> str:
    name, number = wanted, 1
    while connection.execute("SELECT 1 FROM job WHERE name = ?", (name,)).fetchone() or not is_free(name):
        number += 1
        suffix = f".{number}"
        name = wanted[: 100 - len(suffix)] + suffix
    return name
