"""The jobs, recipients and attempts that the agent answers for: the only truth. One recipient's way is in `journal`, what is
to be tried when in `agenda`.

Methods that return a future are for the event loop and resolve when the write is durable; the others read, or are for
start-up and for threads.
"""

import asyncio
import sqlite3
from collections.abc import Iterator, Mapping, Sequence

import orjson

from spoold.core.state import JobState, RecipientState, Standing
from spoold.storage import clock, outbox
from spoold.storage.agenda import Agenda
from spoold.storage.database import Database, silent
from spoold.storage.journal import Journal, Tallies
from spoold.storage.record import Compact, JobRow, id_range, job_of

_JOB_COLUMNS = (
    "id, name, state, reason, next_at, since, job.manifest, timing, key, compact.manifest, accepted_at, total, held,"
    " cancelled, expired, warnings, errors, attempts_bytes, attempts_id"
)
_UPDATE = """UPDATE recipient SET state = ?, due_at = ?, attempts = ?, first_attempt_at = ?, last_attempt_at = ?,
    code = ?, status = ?, diagnostic = ?, remote_mta = ?, category = ? WHERE id = ?"""
_ATTEMPT = """INSERT INTO attempt (job_id, recipient_id, at, number, result, code, status, diagnostic, relay, remote_mta)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_CHUNK = 2000


class Store:
    """See the module."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.journal = Journal(database)
        self.agenda = Agenda(database)

    @property
    def commits(self) -> int:
        """Grows with every commit: as long as it stays, so does everything that is read here."""
        return self._database.commits

    # --- reading -----------------------------------------------------------------------------------------------

    def live_jobs(self) -> list[JobRow]:
        """Every job that is not done, oldest first."""
        return self._jobs("accepted AND state NOT IN ('finished', 'cancelled', 'rejected')")

    def done_jobs(self, limit: int = 100) -> list[JobRow]:
        """The jobs that ended last, latest first."""
        return self._jobs(
            "accepted AND state IN ('finished', 'cancelled', 'rejected')", order=f"since DESC LIMIT {limit}"
        )

    def ended_before(self, moment: float) -> list[tuple[int, str]]:
        """(id, name) of the jobs that were done before `moment`."""
        with self._database.reading() as reader:
            return reader.execute(
                "SELECT id, name FROM job WHERE accepted AND state IN ('finished', 'cancelled', 'rejected') AND since < ?",
                (moment,),
            ).fetchall()

    def job(self, job_id: int) -> JobRow | None:
        found = self._jobs("id = ?", job_id)
        return found[0] if found else None

    def jobs(self, job_ids: Sequence[int]) -> list[JobRow]:
        """These jobs, as far as they are known."""
        return self._jobs("id IN (SELECT value FROM json_each(?))", orjson.dumps(job_ids).decode())

    def places(self) -> Iterator[tuple[int, str, JobState]]:
        """(id, name, state) of every accepted job."""
        with self._database.reading() as reader:
            rows = reader.execute("SELECT id, name, state FROM job WHERE accepted").fetchall()
        for job_id, name, state in rows:
            yield job_id, name, JobState(state)

    def _jobs(self, condition: str, *values: object, order: str = "id") -> list[JobRow]:
        with self._database.reading() as reader:
            rows = reader.execute(
                f"SELECT {_JOB_COLUMNS} FROM job LEFT JOIN compact ON job_id = id WHERE {condition} ORDER BY {order}",  # noqa: S608 - our own text
                values,
            ).fetchall()
            if not rows:
                return []
            tallies: dict[int, dict[RecipientState, int]] = {row[0]: {} for row in rows}
            found = reader.execute(
                "SELECT job_id, state, n FROM state_tally WHERE job_id BETWEEN ? AND ?",
                (min(tallies), max(tallies)),
            )
            for job_id, state, count in found:
                if count and job_id in tallies:
                    tallies[job_id][RecipientState(state)] = count
        return [_job(row, tallies[row[0]]) for row in rows]

    def tats(self, now: float) -> dict[str, float]:
        """The state of the rates (see `core.schedule.rate`) that still mean something; at start."""
        self._database.write(
            lambda connection: silent(connection.execute("DELETE FROM limiter WHERE tat <= ?", (now,)))
        )
        with self._database.reading() as reader:
            return dict(reader.execute("SELECT name, tat FROM limiter WHERE name <> ?", (clock.MARK,)).fetchall())

    # --- jobs -------------------------------------------------------------------------------------------------------

    def stand(self, job_id: int, standing: Standing, since: float) -> "asyncio.Future[None]":
        def write(connection: sqlite3.Connection) -> None:
            if standing.state.final:
                outbox.put(connection, job_id)
            connection.execute(
                "UPDATE job SET state = ?, reason = ?, next_at = ?, since = ? WHERE id = ?",
                (standing.state.value, standing.reason, standing.next_at, since, job_id),
            )

        return self._database.write_soon(write)

    def hold(self, job_id: int, held: bool) -> "asyncio.Future[None]":
        return self._set(job_id, held=held)

    def cancel(self, job_id: int) -> "asyncio.Future[None]":
        """Remember that the job was cancelled; `end_unsent` does the rest."""
        return self._set(job_id, cancelled=True)

    def expire(self, job_id: int) -> "asyncio.Future[None]":
        return self._set(job_id, expired=True)

    def warn(self, job_id: int, warnings: Sequence[str]) -> "asyncio.Future[None]":
        return self._set(job_id, warnings=orjson.dumps(list(warnings)).decode())

    def retime(self, job_id: int, manifest: bytes, compact: Compact) -> "asyncio.Future[None]":
        """Remember an edited job.yaml for its timing, and what the job's manifest means with that."""
        self.remember({job_id: compact})
        return self._set(job_id, timing=manifest)

    def remember(self, compacts: Mapping[int, Compact]) -> "asyncio.Future[None]":
        """Keep what these jobs' manifests mean."""
        rows = [(job_id, compact.key, compact.manifest) for job_id, compact in compacts.items()]
        return self._database.write_soon(
            lambda connection: silent(connection.executemany("INSERT OR REPLACE INTO compact VALUES (?, ?, ?)", rows))
        )

    def _set(self, job_id: int, **values: object) -> "asyncio.Future[None]":
        columns = ", ".join(f"{name} = ?" for name in values)
        return self._database.write_soon(
            lambda connection: silent(
                connection.execute(
                    f"UPDATE job SET {columns} WHERE id = ?",  # noqa: S608 - our own column names
                    (*values.values(), job_id),
                )
            )
        )

    def end_unsent(self, job_id: int, state: RecipientState, reason: str) -> "asyncio.Future[int]":
        """Give up to some thousand unclaimed recipients the final `state`; resolves to how many, 0 when none is left.

        Cancelling leaves *uncertain* ones as they are, never to be resent; expiry ends them too.
        """
        status = "5.4.7" if state is RecipientState.EXPIRED else None
        category = "message-expired" if state is RecipientState.EXPIRED else None
        low, high = id_range(job_id)

        def write(connection: sqlite3.Connection) -> int:
            rows = connection.execute(
                "SELECT id, domain, state, diagnostic FROM recipient WHERE job_id = ? AND due_at IS NOT NULL"
                " AND id NOT IN (SELECT id FROM claim) LIMIT ?", (job_id, _CHUNK),
            ).fetchall()  # fmt: skip
            if not rows and state is RecipientState.EXPIRED:
                rows = connection.execute(
                    "SELECT id, domain, state, diagnostic FROM recipient WHERE id BETWEEN ? AND ? AND state = ?"
                    " AND id NOT IN (SELECT id FROM claim) LIMIT ?",
                    (low, high, int(RecipientState.UNCERTAIN), _CHUNK),
                ).fetchall()
            tallies = Tallies()
            for id_, domain, before, last in rows:
                if before == RecipientState.UNCERTAIN and state is RecipientState.CANCELLED:
                    connection.execute("UPDATE recipient SET due_at = NULL WHERE id = ?", (id_,))
                    continue
                text = f"{reason}; last: {last}" if last else reason
                connection.execute(
                    "UPDATE recipient SET state = ?, due_at = NULL, diagnostic = ?, status = coalesce(?, status),"
                    " category = coalesce(?, category) WHERE id = ?",
                    (int(state), text, status, category, id_),
                )
                tallies.moved(job_id, domain, before, state)
                if status:
                    tallies.replied(job_id, state.label, None, status, category, reason)
            tallies.write(connection)
            return len(rows)

        return self._database.write_soon(write)

    def set_back(self, back: float, now: float, job_id: int | None = None) -> "asyncio.Future[None]":
        """The clock was set back by `back` seconds under the running agent, to `now`: see `clock.set_back`.

        What was claimed and found out by the old clock and is not written yet is moved with the rest.
        """
        if job_id is None:
            self.journal.set_back(back)
        return self._database.write_soon(lambda connection: clock.set_back(connection, back, now, job_id))

    def mark_attempts(self, job_id: int, size: int, last_id: int) -> None:
        """How far attempts.jsonl reaches: bytes written, and the last attempt in them. For threads."""
        self._database.write(
            lambda connection: silent(
                connection.execute(
                    "UPDATE job SET attempts_bytes = ?, attempts_id = ? WHERE id = ?", (size, last_id, job_id)
                )
            )
        )

    def forget(self, job_id: int) -> None:
        """Remove all that is known of a job. For threads."""
        low, high = id_range(job_id)

        def write(connection: sqlite3.Connection) -> None:
            for table in ("state_tally", "domain_tally", "reply_tally", "time_tally", "attempt", "compact"):
                connection.execute(f"DELETE FROM {table} WHERE job_id = ?", (job_id,))  # noqa: S608 - our own names
            for table in ("recipient", "message"):
                connection.execute(f"DELETE FROM {table} WHERE id BETWEEN ? AND ?", (low, high))  # noqa: S608 - as above
            outbox.forget(connection, job_id)
            connection.execute("DELETE FROM job WHERE id = ?", (job_id,))

        self._database.write(write)

    def alive(self) -> "asyncio.Future[None]":
        """Resolves when the writer has answered, and all outcomes up to now are durable."""
        return self.journal.settled()

    # --- start ------------------------------------------------------------------------------------------------------

    def recover(self, now: float, due_at: dict[int, float | None], rest: float) -> int:
        """Turn the claims of a killed process into *uncertain* recipients; returns how many.

        `due_at` overrides, by job, when they are to be sent again (None: not by themselves); else `now + rest`.
        """

        def write(connection: sqlite3.Connection) -> int:
            rows = connection.execute(
                "SELECT c.id, c.at, c.relay, r.domain, r.state, r.attempts, r.first_attempt_at, r.job_id FROM claim c"
                " CROSS JOIN recipient r ON r.id = c.id"
            ).fetchall()
            tallies = Tallies()
            text = "the agent ended while the message was being sent; it may have been sent"
            for id_, at, relay, domain, before, attempts, first, job_id in rows:
                connection.execute(
                    _UPDATE,
                    (int(RecipientState.UNCERTAIN), due_at.get(job_id, now + rest), attempts + 1, first or at, at,
                     None, "4.4.2", text, None, None, id_),
                )  # fmt: skip
                label = RecipientState.UNCERTAIN.label
                connection.execute(_ATTEMPT, (job_id, id_, at, attempts + 1, label, None, "4.4.2", text, relay, None))
                tallies.attempted(job_id, at, label)
                tallies.moved(job_id, domain, before, RecipientState.UNCERTAIN)
                tallies.replied(job_id, label, None, "4.4.2", None, text)
            tallies.write(connection)
            connection.execute("DELETE FROM claim")
            return len(rows)

        return self._database.write(write)

    def claimed_jobs(self) -> set[int]:
        """The jobs that have claims."""
        with self._database.reading() as reader:
            return {job_of(row[0]) for row in reader.execute("SELECT id FROM claim")}


def _job(row: tuple[object, ...], counts: dict[RecipientState, int]) -> JobRow:
    (id_, name, state, reason, next_at, since, manifest, timing, key, compact, accepted_at, total, held, cancelled,
     expired, warnings, errors, attempts_bytes, attempts_id) = row  # fmt: skip
    return JobRow(
        id_, name, Standing(JobState(state), reason, next_at), since, manifest, timing,  # type: ignore[arg-type]
        None if key is None else Compact(key, compact), accepted_at, total,  # type: ignore[arg-type]
        bool(held), bool(cancelled), bool(expired), tuple(orjson.loads(warnings)), tuple(orjson.loads(errors)),  # type: ignore[arg-type]
        attempts_bytes, attempts_id, counts,  # type: ignore[arg-type]
    )  # fmt: skip
