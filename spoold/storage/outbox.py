"""Which jobs have ended and are still to be told of, so that each is told of once.

A row is written in the commit that ends its job. Whoever tells of it names the upload that will do so first; the
commit that accepts that upload removes the row, and marks the new job as one of which nothing is told in its turn.
A row that is there, then, has not been told of, whatever was killed when.
"""

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from spoold.storage.database import Database, silent


class Ended(NamedTuple):
    """A job that ended; `upload` is the name of the upload that tells of it, None as long as it has none."""

    job_id: int
    upload: str | None


def put(connection: sqlite3.Connection, job_id: int) -> None:
    """The job ends in this commit: before its state is written, for a job ends once."""
    connection.execute(
        "INSERT OR IGNORE INTO ended (job_id) SELECT id FROM job WHERE id = ?"
        " AND state NOT IN ('finished', 'cancelled', 'rejected') AND id NOT IN (SELECT job_id FROM notice)",
        (job_id,),
    )


def told(connection: sqlite3.Connection, job_id: int, upload: str) -> None:
    """The upload becomes the job `job_id` in this commit: if it tells of another one, that has been told of."""
    if connection.execute("DELETE FROM ended WHERE upload = ?", (upload,)).rowcount:
        connection.execute("INSERT OR IGNORE INTO notice VALUES (?)", (job_id,))


def forget(connection: sqlite3.Connection, job_id: int) -> None:
    """The job is removed in this commit; its id may come again."""
    for table in ("ended", "notice"):
        connection.execute(f"DELETE FROM {table} WHERE job_id = ?", (job_id,))  # noqa: S608 - our own names


class Outbox:
    """See the module. For threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def pending(self) -> list[Ended]:
        """In the order of their ids."""
        with self._database.reading() as reader:
            rows = reader.execute("SELECT job_id, upload FROM ended ORDER BY job_id").fetchall()
        return list(map(Ended._make, rows))

    def name(self, job_id: int, upload: str) -> None:
        """An upload of this name, which no other may have, will tell of the job; durable when it returns."""
        self._database.write(
            lambda connection: silent(
                connection.execute("UPDATE ended SET upload = ? WHERE job_id = ?", (upload, job_id))
            )
        )

    def drop(self, job_ids: Iterable[int]) -> None:
        """Of these nothing is to be told."""
        rows = [(job_id,) for job_id in job_ids]
        self._database.write(
            lambda connection: silent(connection.executemany("DELETE FROM ended WHERE job_id = ?", rows))
        )
