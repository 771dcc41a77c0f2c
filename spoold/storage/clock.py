"""The clock, as far as the database can judge it: whether it was set back while no agent ran, and what follows then.

Every moment in the database was once the present. If the newest of them lies ahead, the clock was set back by that much
at least, and who waits would wait so much longer than anybody wanted. What was seen of this is kept beside the rates, as
a row that no rate can have: nobody's waiting is cut short twice for the same moments.
"""

import sqlite3

from spoold.storage.database import Database

#: The row in `limiter`: moments up to this one are known to lie ahead.
MARK = "/clock"
#: Seconds that a clock may be set back without a word, as any time service does.
_MAY_DIFFER = 60.0
#: No id of a job is more.
MOST = 2**31 - 1
_NEWEST = """SELECT max(at) FROM (
    SELECT max(accepted_at) AS at FROM job UNION ALL SELECT max(since) FROM job UNION ALL SELECT max(at) FROM claim
    UNION ALL SELECT at FROM (SELECT at FROM attempt ORDER BY id DESC LIMIT 1))"""


def catch_up(database: Database, now: float) -> float:
    """At start, before the rates are read: by how many seconds the clock was set back since the last end, at least; else 0.

    Retries, first attempts and rates then wait no longer than they would have had to at the newest moment that is known.
    """
    with database.reading() as reader:
        (newest,) = reader.execute(_NEWEST).fetchone()
        mark = reader.execute("SELECT tat FROM limiter WHERE name = ?", (MARK,)).fetchone()
    if newest is None or newest - now < _MAY_DIFFER or (mark is not None and newest <= mark[0]):
        return 0.0
    back = float(newest) - now

    database.write(lambda connection: set_back(connection, back, now))
    return back


def set_back(connection: sqlite3.Connection, back: float, now: float, job_id: int | None = None) -> None:
    """The clock was set back by `back` seconds, to `now`: retries, first attempts and rates wait no longer than they would have, and
    no job that lives was accepted later than now. With `job_id`, of that job alone.
    """
    low, high = (0, MOST) if job_id is None else (job_id, job_id)
    connection.execute(
        "UPDATE recipient SET due_at = max(due_at - ?, ?)"
        " WHERE due_at > ? AND job_id IN (SELECT id FROM job WHERE accepted AND id BETWEEN ? AND ?)",
        (back, now, now, low, high),
    )
    connection.execute(
        "UPDATE job SET accepted_at = ? WHERE accepted_at > ? AND accepted AND id BETWEEN ? AND ?"
        " AND state NOT IN ('finished', 'cancelled', 'rejected')",
        (now, now, low, high),
    )
    if job_id is None:
        connection.execute("UPDATE limiter SET tat = tat - ? WHERE name <> ?", (back, MARK))
        # Moments up to this one may lie ahead; it has been seen to.
        connection.execute("INSERT OR REPLACE INTO limiter VALUES (?, ?)", (MARK, now + back))
