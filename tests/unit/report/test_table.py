"""recipients.csv is what the csv module would write and reads again; attempts.jsonl is what the json module reads."""

import csv
import io
import json
from datetime import UTC
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoold.core.moment import rfc3339
from spoold.core.state import RecipientState
from spoold.report.table import COLUMNS, attempts_jsonl, recipients_csv
from spoold.storage.database import Database
from spoold.storage.ledger import Ledger
from spoold.storage.record import id_in_job

# (No control characters: `core` keeps them out of the database.)
WORDS = st.none() | st.text(st.sampled_from("ab ,\";'\\%0é"), max_size=8)
PLAIN = st.none() | st.text(st.sampled_from("ab ;'é%"), max_size=8)
MOMENTS = st.none() | st.sampled_from(
    [1_790_000_000.0, 1_790_000_000.25, 1_790_000_039.9999, 1_790_000_040.0, 1_789_999_999.5]
)


class Row(NamedTuple):
    """A recipient's row as the database has it, in the order of its columns there."""

    line: int
    address: str
    state: RecipientState
    due_at: float | None
    attempts: int
    last_attempt_at: float | None
    code: int | None
    status: str | None
    diagnostic: str | None
    remote_mta: str | None
    category: str | None
    message: str | None


def rows(words: st.SearchStrategy[str | None]) -> st.SearchStrategy[list[Row]]:
    states = st.sampled_from([state for state in RecipientState if state is not RecipientState.SENDING])
    row = st.builds(
        Row, st.integers(1, 10**7), words.map(lambda text: text or "a@b.example"), states, MOMENTS, st.integers(0, 9),
        MOMENTS, st.none() | st.sampled_from([0, 250, 550]), words, words, words, words, words,
    )  # fmt: skip
    return st.lists(row, max_size=20)


def fill(database: Database, rows: list[Row]) -> None:
    """Make these the recipients of job 1, each with its last attempt."""
    recipients = [
        (id_in_job(1, n), *row[:-1], None if row.message is None else id_in_job(1, n)) for n, row in enumerate(rows, 1)
    ]
    messages = [(id_in_job(1, n), row.message) for n, row in enumerate(rows, 1) if row.message is not None]
    attempts = [
        (id_in_job(1, n), row.last_attempt_at, row.attempts, row.state.label, row.code, row.status, row.diagnostic, "r",
         row.remote_mta)
        for n, row in enumerate(rows, 1)
        if row.last_attempt_at is not None
    ]  # fmt: skip

    def write(connection: object) -> None:
        for table in ("recipient", "message", "attempt"):
            connection.execute(f"DELETE FROM {table}")  # type: ignore[attr-defined]
        connection.executemany(  # type: ignore[attr-defined]
            "INSERT INTO recipient (id, line, address, state, due_at, attempts, last_attempt_at, code, status, diagnostic,"
            " remote_mta, category, message_id, job_id, domain) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, '')",
            recipients,
        )
        connection.executemany("INSERT INTO message (id, path) VALUES (?, ?)", messages)  # type: ignore[attr-defined]
        connection.executemany(  # type: ignore[attr-defined]
            "INSERT INTO attempt (job_id, recipient_id, at, number, result, code, status, diagnostic, relay, remote_mta)"
            " VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            attempts,
        )

    database.write(write)


@pytest.mark.parametrize("words", [WORDS, PLAIN], ids=["foreign", "plain"])
@given(data=st.data())
def test_every_row_is_read_as_it_was_and_is_written_as_the_csv_module_does(
    database: Database, words: st.SearchStrategy[str | None], data: st.DataObject
) -> None:
    given_rows = data.draw(rows(words))
    fill(database, given_rows)
    written = b"".join(recipients_csv(Ledger(database), 1, UTC))
    heading, *found = csv.reader(io.StringIO(written.decode(), newline=""))
    assert tuple(heading) == COLUMNS
    again = io.StringIO()
    csv.writer(again).writerows([heading, *found])
    assert again.getvalue().encode() == written
    assert len(found) == len(given_rows)
    for cells, row in zip(found, given_rows, strict=True):
        foreign = (row.address, row.status, row.diagnostic, row.remote_mta, row.category, row.message)
        assert [cells[1], cells[5], cells[7], cells[8], cells[9], cells[12]] == [word or "" for word in foreign]
        assert (cells[0], cells[2], cells[3]) == (str(row.line), row.state.label, str(row.attempts))
        assert cells[6] == (str(row.code) if row.code else "")
        assert cells[10] == (rfc3339(row.last_attempt_at, UTC) or "")
        waits = row.state in (RecipientState.DEFERRED, RecipientState.UNCERTAIN)
        assert cells[11] == ((waits and rfc3339(row.due_at, UTC)) or "")


@given(given_rows=rows(WORDS) | rows(PLAIN))
def test_every_attempt_is_a_line_of_json(database: Database, given_rows: list[Row]) -> None:
    fill(database, given_rows)
    pieces = list(attempts_jsonl(Ledger(database), 1, 0, UTC))
    lines = b"".join(lines for lines, _ in pieces).decode().splitlines()
    tried = [row for row in given_rows if row.last_attempt_at is not None]
    assert [json.loads(line) for line in lines] == [
        {
            "at": rfc3339(row.last_attempt_at, UTC), "line": row.line, "address": row.address, "attempt": row.attempts,
            "result": row.state.label, "dsn_status": row.status, "smtp_code": row.code, "diagnostic": row.diagnostic,
            "relay": "r", "remote_mta": row.remote_mta, "message": row.message,
        }
        for row in tried
    ]  # fmt: skip
    if tried:
        upto = pieces[-1][1]
        assert not list(attempts_jsonl(Ledger(database), 1, upto, UTC))
        first = next(iter(attempts_jsonl(Ledger(database), 1, 0, UTC, until=upto - len(tried) + 1)))[0]
        assert first.decode() == lines[0] + "\n"


@pytest.mark.parametrize("diagnostic", ["250 ok", "451 later, please"], ids=["plain", "quoted"])
def test_who_is_being_sent_to_is_so_whatever_he_was_before(database: Database, diagnostic: str) -> None:
    at = 1_790_000_000.0
    rows = [
        Row(n, f"u{n}@b.example", RecipientState.DEFERRED, at + 60, 1, at, 451, "4.2.0", diagnostic, "mx", "other", "m.eml")
        for n in (2, 3)
    ]  # fmt: skip
    fill(database, rows)
    claim = (id_in_job(1, 1), at + 60, "default")
    database.write(lambda connection: connection.execute("INSERT INTO claim VALUES (?, ?, ?)", claim).rowcount)
    try:
        written = b"".join(recipients_csv(Ledger(database), 1, UTC)).decode()
    finally:
        database.write(lambda connection: connection.execute("DELETE FROM claim").rowcount)
    sending, deferred = csv.DictReader(io.StringIO(written, newline=""))
    assert (sending["state"], sending["dsn_action"], sending["next_attempt_at"]) == ("sending", "", "")
    assert (deferred["state"], deferred["dsn_action"]) == ("deferred", "delayed")
    assert deferred["next_attempt_at"] == rfc3339(at + 60, UTC)
    assert sending["diagnostic"] == deferred["diagnostic"] == diagnostic
