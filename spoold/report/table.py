"""report/recipients.csv and report/attempts.jsonl: the long lists, as streams of bytes.

Their rows are put together by SQLite, which takes half the time and keeps nobody from Python's lock. Only moments are
written here, for it knows no time zones: a row has them as milliseconds between two separators.
"""

from collections.abc import Collection, Iterator
from datetime import tzinfo

from spoold.core.state import RecipientState
from spoold.report.clock import rfc3339
from spoold.storage.ledger import LAST, Ledger, Wording

ATTEMPTS = "attempts.jsonl"
COLUMNS = (
    "line", "address", "state", "attempts", "dsn_action", "dsn_status", "smtp_code", "diagnostic",
    "remote_mta", "bounce_category", "last_attempt_at", "next_attempt_at", "message",
)  # fmt: skip
_HEADING = ",".join(COLUMNS) + "\r\n"
_COMMAS = len(COLUMNS) - 1
#: ASCII's unit separator. In foreign text it becomes a blank: JSON has an escape for it, CSV has not.
_SEPARATOR = "\x1f"

#: RFC 3464 §2.3.3; a relay took the message, so it is *relayed*.
DSN_ACTIONS = {
    RecipientState.DEFERRED: "delayed",
    RecipientState.SENT: "relayed",
    RecipientState.FAILED: "failed",
    RecipientState.EXPIRED: "failed",
}


def _by_state(words: dict[RecipientState, str]) -> str:
    return "CASE r.state " + " ".join(f"WHEN {state:d} THEN '{word}'" for state, word in words.items()) + " END"


def _moment(column: str) -> str:
    return f"CAST({column} * 1000 AS INTEGER)"


def _quoted(column: str) -> str:
    """RFC 4180 §2: in quotes where it must be."""
    quoted = f"""'"' || replace(replace({column}, '"', '""'), char(31), ' ') || '"'"""
    return f"""CASE WHEN {column} GLOB '*["",' || char(10, 13, 31) || ']*' THEN {quoted} ELSE {column} END"""


def _row(*foreign: str) -> str:
    """A row of recipients.csv; `foreign` are the expressions for what comes from outside."""
    address, status, diagnostic, remote_mta, category, path = foreign
    label = _by_state({state: state.label for state in RecipientState})
    action = _by_state(DSN_ACTIONS)
    sending = f"'{RecipientState.SENDING.label}'"
    waiting = f"r.state IN ({RecipientState.DEFERRED:d}, {RecipientState.UNCERTAIN:d}) AND c.id IS NULL"
    cells = (
        f"r.line, {address}, iif(c.id IS NULL, {label}, {sending}), r.attempts, iif(c.id IS NULL, {action}, NULL), {status},"
        f" nullif(r.code, 0), {diagnostic}, {remote_mta}, {category}, {_moment('r.last_attempt_at')},"
        f" iif({waiting}, {_moment('r.due_at')}, NULL), {path}"
    )
    return rf"printf('%d,%s,%s,%d,%s,%s,%s,%s,%s,%s,{_SEPARATOR}%s{_SEPARATOR},{_SEPARATOR}%s{_SEPARATOR},%s' || char(13, 10), {cells})"


_FOREIGN = ("r.address", "r.status", "r.diagnostic", "r.remote_mta", "r.category", "m.path")


def _needs_no_quotes(text: str, rows: int) -> bool:
    """Whether these are `rows` rows of plain cells."""
    return (
        '"' not in text
        and text.count(",") == rows * _COMMAS
        and text.count("\n") == text.count("\r") == rows
        and text.count(_SEPARATOR) == 4 * rows
    )


_ROW = Wording(_row(*_FOREIGN), _row(*map(_quoted, _FOREIGN)), _needs_no_quotes)

_JSON = (
    f"""'{{"at":"' || char(31) || {_moment("a.at")} || char(31) || '",' || substr(json_object('line', r.line, 'address',"""
    " r.address, 'attempt', a.number, 'result', a.result, 'dsn_status', a.status, 'smtp_code', a.code, 'diagnostic',"
    " a.diagnostic, 'relay', a.relay, 'remote_mta', a.remote_mta, 'message', m.path), 2) || char(10)"
)
_FORMAT = (
    f'{{"at":"{_SEPARATOR}%d{_SEPARATOR}","line":%d,"address":"%s","attempt":%d,"result":"%s","dsn_status":"%s",'
    '"smtp_code":%s,"diagnostic":"%s","relay":"%s","remote_mta":"%s","message":"%s"}\n'
)
#: A null leaves a quote too many.
_PLAIN_JSON = (
    f"printf('{_FORMAT}', {_moment('a.at')}, r.line, r.address, a.number, a.result, ifnull(a.status, '\"'),"
    " ifnull(a.code, 'null'), ifnull(a.diagnostic, '\"'), ifnull(a.relay, '\"'), ifnull(a.remote_mta, '\"'),"
    " ifnull(m.path, '\"'))"
)


def _needs_no_escapes(text: str, rows: int) -> bool:
    """Whether these are `rows` lines of plain strings (RFC 8259 §7). Whatever was tried is known to be without control
    characters: its address, its message's name, and the answers.
    """
    return (
        "\\" not in text
        and text.count('"') == rows * _FORMAT.count('"')
        and text.count("\n") == rows
        and text.count(_SEPARATOR) == 2 * rows
    )


_LINE = Wording(_PLAIN_JSON, _JSON, _needs_no_escapes)


def recipients_csv(
    ledger: Ledger, job_id: int, zone: tzinfo, states: Collection[RecipientState] = tuple(RecipientState)
) -> Iterator[bytes]:
    """RFC 4180, with a header line: all recipients of the job, or those in `states`, in pieces of whole rows."""
    yield _HEADING.encode()
    for text in ledger.recipient_texts(job_id, _ROW, states):
        yield _with_moments(text, zone)


def attempts_jsonl(
    ledger: Ledger, job_id: int, after: int, zone: tzinfo, *, until: int = LAST
) -> Iterator[tuple[bytes, int]]:
    """A line of JSON for each attempt with an id above `after`, up to `until`; in pieces of whole lines, with the last
    one's id.
    """
    for text, last in ledger.attempt_texts(job_id, after, until, _LINE):
        yield _with_moments(text, zone), last


class _Moments(dict[str, str]):
    """What milliseconds are as text. Outcomes that were recorded together have the same moment."""

    def __init__(self, zone: tzinfo) -> None:
        self._zone = zone

    def __missing__(self, milliseconds: str) -> str:
        text = rfc3339(int(milliseconds) / 1000, self._zone) or "" if milliseconds else ""
        self[milliseconds] = text
        return text


def _with_moments(text: str, zone: tzinfo) -> bytes:
    parts = text.split(_SEPARATOR)
    parts[1::2] = map(_Moments(zone).__getitem__, parts[1::2])
    return "".join(parts).encode()
