"""Putting a job into the database: chunk by chunk, invisible until one commit says *accepted*.

For intake's threads; every method returns when its writes are durable.
"""

import os
import secrets
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence

import orjson

from spoold.core.message import MessageFacts
from spoold.core.state import JobState, RecipientState
from spoold.failpoint import failpoint
from spoold.storage.database import Database, silent
from spoold.storage.record import Admitted, NewRecipient, id_in_job, id_range

#: One statement a chunk: SQLite reads the rows out of JSON by itself. Row by row, the thread would have to get hold of
#: Python's lock again after each of them, up to 5 ms every time while others send.
_INSERT_RECIPIENTS = f"""INSERT INTO recipient
    (id, job_id, line, address, domain, smtputf8, message_id, extra, state, due_at, status, diagnostic, category)
    SELECT ?1 + key, ?2, json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
    json_extract(value, '$[3]'), json_extract(value, '$[4]'), json_extract(value, '$[5]'),
    iif(json_type(value, '$[6]') = 'null', {RecipientState.QUEUED:d}, {RecipientState.FAILED:d}),
    iif(json_type(value, '$[6]') = 'null', ?3, NULL),
    json_extract(value, '$[6][0]'), json_extract(value, '$[6][1]'), json_extract(value, '$[6][2]')
    FROM json_each(?4)"""  # noqa: S608 - our own numbers
_CHUNK = 5000


#: An accepted job with the same content, unless nothing of that was ever going to be sent.
_TWIN = "SELECT name FROM job WHERE digest = ? AND accepted AND state != 'rejected' ORDER BY id LIMIT 1"


class TwinError(Exception):
    """A job with the same content was accepted before; the text is its name."""


class Admission:
    """The writing of jobs that are being taken."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def commits(self) -> int:
        """Grows with every commit, of whatever part of the agent."""
        return self._database.commits

    def begin(self, upload: str, manifest: bytes, now: float) -> int:
        """A new job, not yet accepted; returns its id."""

        def write(connection: sqlite3.Connection) -> int:
            cursor = connection.execute(
                "INSERT INTO job (name, upload, state, since, manifest, accepted_at) VALUES (?, ?, 'intake', ?, ?, ?)",
                (f"/{secrets.token_hex(16)}", os.fsencode(upload), now, manifest, now),
            )
            return int(cursor.lastrowid or 0)

        return self._database.write(write)

    def add(
        self,
        job_id: int,
        messages: Sequence[tuple[int, str, bytes | None, MessageFacts | None]],
        first: int,
        recipients: Sequence[NewRecipient],
        due_at: float,
    ) -> None:
        """One chunk: messages (id, path, SHA-256, facts or None where they cannot be sent), and then recipients.

        The first of these is the job's `first`-th, counting from 1.
        """
        message_rows = [
            (
                id_,
                path,
                sha256,
                *((facts.size, facts.eight_bit, facts.eight_bit_header, facts.added) if facts else (None,) * 4),
            )
            for id_, path, sha256, facts in messages
        ]
        values = (id_in_job(job_id, first), job_id, due_at, orjson.dumps(recipients, default=tuple).decode())

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany("INSERT INTO message VALUES (?, ?, ?, ?, ?, ?, ?)", message_rows)
            connection.execute(_INSERT_RECIPIENTS, values)

        self._database.write(write)
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
        for start in range(0, len(found), _CHUNK):
            self._delete_recipients([row[0] for row in found[start : start + _CHUNK]])
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
            row = reader.execute(_TWIN, (digest,)).fetchone()
        return None if row is None else str(row[0])

    def accept(self, job_id: int, admitted: Admitted, is_free: Callable[[str], bool], *, unique: bool = False) -> str:
        """Make the job one that the agent answers for; returns the name that it got: the upload's, or with .2, .3 …

        `is_free` says whether a name is free in the spool's folders, too. Where it must be `unique`, raises TwinError and
        accepts nothing if an accepted job, maybe of this very moment, has the same content.
        """
        low, high = id_range(job_id)
        with self._database.reading() as reader:
            tallies = Counter[tuple[str, int]]()
            for domain, state, count in reader.execute(
                "SELECT domain, state, count(*) FROM recipient WHERE id BETWEEN ? AND ? GROUP BY domain, state",
                (low, high),
            ):
                tallies[domain, state] = count
            failures = reader.execute(
                "SELECT status, category, min(diagnostic), count(*) FROM recipient"
                " WHERE id BETWEEN ? AND ? AND state = 5 GROUP BY status, category", (low, high),
            ).fetchall()  # fmt: skip
        states = Counter[int]()
        for (_, state), count in tallies.items():
            states[state] += count
        failpoint("before-accept")

        def write(connection: sqlite3.Connection) -> str:
            twin = connection.execute(_TWIN, (admitted.digest,)).fetchone() if unique else None
            if twin is not None:
                raise TwinError(twin[0])
            name = _free_name(connection, admitted.upload, is_free)
            standing = admitted.standing
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
                "INSERT INTO state_tally VALUES (?, ?, ?)",
                [(job_id, state, n) for state, n in states.items()],
            )
            connection.executemany(
                "INSERT INTO domain_tally VALUES (?, ?, ?, ?)",
                [(job_id, domain, state, n) for (domain, state), n in tallies.items()],
            )
            connection.executemany(
                "INSERT INTO reply_tally VALUES (?, 'failed', 0, ?, ?, ?, ?)",
                [(job_id, status, category or "", example, n) for status, category, example, n in failures],
            )
            return name

        return self._database.write(write)

    def settle(self, job_id: int | None = None) -> None:
        """The job's upload is out of the way and its report is written; without `job_id`, every job's."""
        where, values = ("id = ?", (job_id,)) if job_id is not None else ("claim IS NOT NULL", ())
        self._database.write(
            lambda connection: silent(connection.execute(f"UPDATE job SET claim = NULL WHERE {where}", values))  # noqa: S608
        )

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

    def claimed_by(self, upload: str, claim: int) -> tuple[str, JobState] | None:
        """(name, state) of the accepted job whose upload, of this name and inode, may still be in the way."""
        with self._database.reading() as reader:
            row = reader.execute(
                "SELECT j.name, j.state FROM job j WHERE j.accepted AND j.claim = ? AND j.upload = ?",
                (claim, os.fsencode(upload)),
            ).fetchone()
        return None if row is None else (row[0], JobState(row[1]))

    def empty(self, job_id: int) -> None:
        """Remove the recipients and messages of a job that is to be rejected."""
        low, high = id_range(job_id)
        for table in ("recipient", "message"):
            query = f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE id BETWEEN ? AND ? LIMIT ?)"  # noqa: S608
            while self._execute(query, (low, high, _CHUNK)):
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


def _free_name(connection: sqlite3.Connection, wanted: str, is_free: Callable[[str], bool]) -> str:
    name, number = wanted, 1
    while connection.execute("SELECT 1 FROM job WHERE name = ?", (name,)).fetchone() or not is_free(name):
        number += 1
        suffix = f".{number}"
        name = wanted[: 100 - len(suffix)] + suffix
    return name
