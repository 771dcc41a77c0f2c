"""Many rows in one statement, and in one step.

Python gives up its lock at every step of a statement, and another busy thread may keep it for milliseconds: a statement
a row makes a commit of a hundred rows wait a hundred times, and so does a row a step when they are read. Rows are written
in slabs of a few fixed sizes, the last one padded, so that each statement is prepared once; they are read as one JSON text.
"""

import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Any

import orjson

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Slab:
    """A statement with a list of rows in it: `head`, `row` once a row, separated by commas, `tail`.

    It must do nothing for a row of zeros.
    """

    def __init__(self, head: str, row: str, tail: str) -> None:
        self._statements = {size: f"{head} {', '.join([row] * size)} {tail}" for size in _SIZES}
        self._padding = (0,) * row.count("?")

    def run(
        self,
        connection: sqlite3.Connection,
        rows: Sequence[Sequence[Any]],
        before: Sequence[Any] = (),
        after: Sequence[Any] = (),
    ) -> int:
        """Run it for all `rows`; `before` and `after` are bound around them. Returns the number of rows changed."""
        changed = 0
        for start in range(0, len(rows), _SIZES[-1]):
            piece = rows[start : start + _SIZES[-1]]
            size = next(size for size in _SIZES if size >= len(piece))
            values = (*before, *chain.from_iterable(piece), *self._padding * (size - len(piece)), *after)
            changed += connection.execute(self._statements[size], values).rowcount
        return changed


def at_once(columns: str, select: str, also: str = "NULL") -> str:
    """A query for the rows of `SELECT columns select` as one JSON text, in their order, and for `also`, an aggregate of them.

    `select` wants a GROUP BY, or an ORDER BY and a LIMIT, and no column may be a BLOB. Numbers with a fraction come with 15 digits, which
    for a moment means to ten microseconds.
    """
    # SQLite runs a query within a query that has those as it stands, and sums up its rows as they come.
    names = ", ".join(column.rpartition(" ")[2].rpartition(".")[2] for column in columns.split(", "))
    return f"SELECT json_group_array(json_array({names})), {also} FROM (SELECT {columns} {select})"  # noqa: S608 - our own text


def as_text(id_: str, expression: str, select: str) -> str:
    """A query for one text, of `expression` for each row of `SELECT id_ select` in their order, for their number, and for
    the highest id. `select` wants an ORDER BY and a LIMIT.
    """
    return f"SELECT group_concat(text, ''), count(*), max(id) FROM (SELECT {id_} AS id, {expression} AS text {select})"  # noqa: S608 - our own text


def fetch(connection: sqlite3.Connection, query: str, values: Sequence[Any]) -> tuple[list[list[Any]], Any]:
    """The rows that a query of `at_once` gives, and its `also`."""
    text, also = connection.execute(query, values).fetchone()
    return orjson.loads(text), also


def insert(into: str, width: int, also: str = "") -> Slab:
    """A slab that inserts rows of `width` values, the first of which is never zero."""
    row = f"({', '.join('?' * width)})"
    return Slab(f"INSERT INTO {into} SELECT * FROM (VALUES", row, f") WHERE column1 != 0 {also}")  # noqa: S608
