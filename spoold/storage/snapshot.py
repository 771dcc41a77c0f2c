"""The database as it is at one moment, read from beside the agent. Writes nothing, needs no lock, stops nobody."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from spoold.core.state import RecipientState
from spoold.storage.database import Database, DatabaseError, connect
from spoold.storage.record import id_range
from spoold.storage.schema import VERSION
from spoold.storage.upgrade import form_of, refuse_newer

_FAULTS = 20

#: What must hold of every accepted job: the name of the rule, and the ids of the jobs that break it.
_RULES = (
    (
        "its tally of states is not what its recipients are in",
        """SELECT DISTINCT job_id FROM (
            SELECT job_id, state, n FROM state_tally WHERE n <> 0
            UNION ALL SELECT job_id, state, -count(*) FROM recipient GROUP BY job_id, state)
        GROUP BY job_id, state HAVING sum(n) <> 0""",
    ),
    (
        "its tally of domains is not what its recipients are in",
        """SELECT DISTINCT job_id FROM (
            SELECT job_id, domain, state, n FROM domain_tally WHERE n <> 0
            UNION ALL SELECT job_id, domain, state, -count(*) FROM recipient GROUP BY job_id, domain, state)
        GROUP BY job_id, domain, state HAVING sum(n) <> 0""",
    ),
    (
        "its total is not the number of its recipients",
        """SELECT id FROM job LEFT JOIN (SELECT job_id, count(*) AS n FROM recipient GROUP BY job_id) r
        ON r.job_id = job.id WHERE total <> coalesce(r.n, 0)""",
    ),
    (
        "its number of attempts is not that of its attempt rows",
        """SELECT id FROM job LEFT JOIN (SELECT job_id, count(*) AS n FROM attempt GROUP BY job_id) a
        ON a.job_id = job.id WHERE attempts <> coalesce(a.n, 0)""",
    ),
    (
        "its tally of seconds is not what its attempt rows say",
        """SELECT DISTINCT job_id FROM (
            SELECT job_id, second, result, n FROM time_tally
            UNION ALL SELECT job_id, CAST(at AS INTEGER), result, -count(*) FROM attempt GROUP BY 1, 2, 3)
        GROUP BY job_id, second, result HAVING sum(n) <> 0""",
    ),
    (
        "recipients with a final state are still to be tried",
        "SELECT DISTINCT job_id FROM recipient WHERE due_at IS NOT NULL AND state >= :final",
    ),
    (
        "recipients have a message that is not known",
        """SELECT DISTINCT r.job_id FROM recipient r LEFT JOIN message m ON m.id = r.message_id
        WHERE r.message_id IS NOT NULL AND m.id IS NULL""",
    ),
    (
        "a recipient with a final state is claimed",
        "SELECT DISTINCT r.job_id FROM claim c JOIN recipient r ON r.id = c.id WHERE r.state >= :final",
    ),
)


class Snapshot(Database):
    """Takes the place of a `Database` for whoever only reads. Raises DatabaseError where there is none to read.

    `moment` holds one state of it for the length of a with block; outside, each SELECT sees the last commit before it.
    For one thread.
    """

    def __init__(self, path: Path) -> None:
        form = form_of(path)
        if form is None and not path.exists():
            raise DatabaseError(f"{path}: no agent has ever run on this spool")
        refuse_newer(path, form)
        self._path = path
        self.commits = 0
        try:
            self._connection = connect(path, read_only=True)
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        except sqlite3.Error as error:
            raise DatabaseError(f"{path}: {error}") from None
        if version != VERSION:
            self._connection.close()
            raise DatabaseError(
                f"{path}: was written by an older version (form {version}, expected {VERSION});"
                " start the agent once: it brings it up to date"
            )

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        try:
            yield self._connection
        except sqlite3.Error as error:
            raise DatabaseError(f"{self._path}: {error}") from None

    @contextmanager
    def moment(self) -> Iterator[None]:
        """Everything that is read within is of the same commit. Not for long: the agent's log cannot shrink meanwhile."""
        with self.reading() as reader:
            reader.execute("BEGIN")
        try:
            yield
        finally:
            with suppress(sqlite3.Error):
                self._connection.execute("COMMIT")

    def faults(self) -> list[str]:
        """What is wrong with the database itself: its pages, and what does not go together in it. Reads all of it."""
        try:
            rows = self._connection.execute(f"PRAGMA integrity_check({_FAULTS})").fetchall()
        except sqlite3.Error as error:
            return [str(error)]
        found = [str(row[0]) for row in rows if row[0] != "ok"]
        if found:
            return found
        with self.moment(), self.reading() as reader:
            names = dict(reader.execute("SELECT id, name FROM job WHERE accepted").fetchall())
            final = {"final": int(RecipientState.SENT)}
            for text, query in _RULES:
                broken = sorted(names[row[0]] for row in reader.execute(query, final) if row[0] in names)
                found.extend(f"job {name}: {text}" for name in broken[:_FAULTS])
        return found

    def newest(self) -> float | None:
        """The latest moment of which the database tells, POSIX seconds."""
        with self.reading() as reader:
            row = reader.execute(
                "SELECT max(m) FROM (SELECT max(accepted_at) AS m FROM job UNION ALL SELECT max(since) FROM job"
                " UNION ALL SELECT at FROM (SELECT at FROM attempt ORDER BY id DESC LIMIT 1))"
            ).fetchone()
        return None if row[0] is None else float(row[0])

    def unsent_messages(self, job_id: int) -> Iterator[tuple[str, bytes]]:
        """(path, SHA-256) of the messages that the job still has to send."""
        low, high = id_range(job_id)
        with self.reading() as reader:
            yield from reader.execute(
                "SELECT path, sha256 FROM message WHERE id BETWEEN ? AND ? AND sha256 IS NOT NULL AND id IN"
                " (SELECT DISTINCT message_id FROM recipient WHERE job_id = ? AND due_at IS NOT NULL)",
                (low, high, job_id),
            ).fetchall()
