"""report/recipients.csv and report/attempts.jsonl: the long lists, as streams of bytes."""

import csv
import io
import itertools
from collections.abc import Iterable, Iterator
from datetime import tzinfo
from itertools import islice

import orjson

from spoold.core.state import RecipientState
from spoold.report.clock import rfc3339
from spoold.storage.ledger import AttemptRow, RecipientRow

ATTEMPTS = "attempts.jsonl"
COLUMNS = (
    "line", "address", "state", "attempts", "dsn_action", "dsn_status", "smtp_code", "diagnostic",
    "remote_mta", "bounce_category", "last_attempt_at", "next_attempt_at", "message",
)  # fmt: skip
_ROWS = 1000
_COMMAS = len(COLUMNS) - 1

#: RFC 3464 §2.3.3; a relay took the message, so it is *relayed*.
DSN_ACTIONS = {
    RecipientState.DEFERRED: "delayed",
    RecipientState.SENT: "relayed",
    RecipientState.FAILED: "failed",
    RecipientState.EXPIRED: "failed",
}
#: By state: its name, its action, and whether its next attempt is told.
_WORDS = [
    (state.label, DSN_ACTIONS.get(state, ""), state in (RecipientState.DEFERRED, RecipientState.UNCERTAIN))
    for state in RecipientState
]


def recipients_csv(rows: Iterable[RecipientRow], zone: tzinfo) -> Iterator[bytes]:
    """RFC 4180, with a header line."""
    lines = itertools.chain([f"{','.join(COLUMNS)}\r\n"], _lines(rows, zone))
    while piece := "".join(islice(lines, _ROWS)):
        yield piece.encode(errors="backslashreplace")


def _lines(rows: Iterable[RecipientRow], zone: tzinfo) -> Iterator[str]:
    before, at = None, ""  # those that ended together have the same moment
    for line, address, state, attempts, code, status, diagnostic, mta, category, last_at, due_at, message in rows:
        if last_at != before:
            before, at = last_at, rfc3339(last_at, zone) or ""
        label, action, waits = _WORDS[state]
        due = rfc3339(due_at, zone) or "" if waits else ""
        text = (
            f"{line},{address},{label},{attempts},{action},{status or ''},{code or ''},{diagnostic or ''},{mta or ''},"
            f"{category or ''},{at},{due},{message or ''}\r\n"
        )
        # The csv module takes four times as long, for what hardly a row needs: quotes.
        if text.count(",") != _COMMAS or '"' in text or text.count("\n") != 1 or text.count("\r") != 1:
            cells = (
                line,
                address,
                label,
                attempts,
                action,
                status,
                code or None,
                diagnostic,
                mta,
                category,
                at,
                due,
                message,
            )
            quoted = io.StringIO()
            csv.writer(quoted).writerow(cells)
            text = quoted.getvalue()
        yield text


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
