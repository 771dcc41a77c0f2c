"""report/recipients.csv and report/attempts.jsonl: the long lists, as streams of bytes."""

import csv
import io
from collections.abc import Iterable, Iterator
from datetime import tzinfo

import orjson

from spoold.core.state import RecipientState
from spoold.report.clock import rfc3339
from spoold.storage.ledger import AttemptRow, RecipientRow

COLUMNS = (
    "line", "address", "state", "attempts", "dsn_action", "dsn_status", "smtp_code", "diagnostic",
    "remote_mta", "bounce_category", "last_attempt_at", "next_attempt_at", "message",
)  # fmt: skip
_ROWS = 1000

#: RFC 3464 §2.3.3; a relay took the message, so it is *relayed*.
DSN_ACTIONS = {
    RecipientState.DEFERRED: "delayed",
    RecipientState.SENT: "relayed",
    RecipientState.FAILED: "failed",
    RecipientState.EXPIRED: "failed",
}


def recipients_csv(rows: Iterable[RecipientRow], zone: tzinfo) -> Iterator[bytes]:
    """RFC 4180, with a header line."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(COLUMNS)
    waiting = (RecipientState.DEFERRED, RecipientState.UNCERTAIN)
    for number, row in enumerate(rows, 1):
        line, address, state, attempts, code, status, diagnostic, mta, category, last_at, due_at, message = row
        writer.writerow(
            (line, address, state.label, attempts, DSN_ACTIONS.get(state), status, code or None, diagnostic, mta, category,
             rfc3339(last_at, zone), rfc3339(due_at, zone) if state in waiting else None, message)
        )  # fmt: skip
        if number % _ROWS == 0:
            yield buffer.getvalue().encode(errors="backslashreplace")
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue().encode(errors="backslashreplace")


def attempt_line(row: AttemptRow, zone: tzinfo) -> bytes:
    """One attempt as a line of JSON."""
    return orjson.dumps(
        {
            "at": rfc3339(row.at, zone),
            "line": row.line,
            "address": row.address,
            "attempt": row.number,
            "result": row.result,
            "dsn_status": row.status,
            "smtp_code": row.code,
            "diagnostic": row.diagnostic,
            "relay": row.relay,
            "remote_mta": row.remote_mta,
            "message": row.message,
        },
        option=orjson.OPT_APPEND_NEWLINE,
    )
