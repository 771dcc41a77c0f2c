"""report/recipients.csv and report/attempts.jsonl: the long lists, as streams of bytes.

Their rows are put together by SQLite, which takes half the time and keeps nobody from Python's lock. But it knows no time
zones. So a row has its moments as milliseconds between two separators, and they are written here; or SQLite is told how the
minute reads in which they lie.

No text in the database has control characters: what comes from outside is refused for them, or made printable, before it is
written there (`core.recipient.address`, `core.problem.printable`). So none of it can end a row, or be taken for a separator.
What else cannot be seen is escaped here, and a cell that a spreadsheet would take for a formula gets an apostrophe before it.
"""

from collections.abc import Collection, Iterator
from datetime import tzinfo

from spoold.core.moment import rfc3339
from spoold.core.problem import inert, inert_json
from spoold.core.state import RecipientState
from spoold.storage.ledger import LAST, Ledger, Wording

ATTEMPTS = "attempts.jsonl"
COLUMNS = (
    "line", "address", "state", "attempts", "dsn_action", "dsn_status", "smtp_code", "diagnostic",
    "remote_mta", "bounce_category", "last_attempt_at", "next_attempt_at", "message",
)  # fmt: skip
_HEADING = ",".join(COLUMNS) + "\r\n"
_COMMAS = len(COLUMNS) - 1
#: What a spreadsheet takes for the beginning of a formula; in East Asia the wide forms too.
_NARROW = "-=+@\t\r"
_WIDE = "＋－＝＠"
_APOSTROPHE = "''''||"
#: ASCII's unit separator.
_SEPARATOR = "\x1f"

#: RFC 3464 §2.3.3; a relay took the message, so it is *relayed*.
DSN_ACTIONS = {
    RecipientState.DEFERRED: "delayed",
    RecipientState.SENT: "relayed",
    RecipientState.FAILED: "failed",
    RecipientState.EXPIRED: "failed",
}


def _by_state(words: dict[RecipientState, str]) -> str:
    # The cases are looked at one after the other, and most rows are of recipients that were sent to.
    cases = sorted(words.items(), key=lambda case: case[0] is not RecipientState.SENT)
    return "CASE r.state " + " ".join(f"WHEN {state:d} THEN '{word}'" for state, word in cases) + " END"


def _moment(column: str) -> str:
    return f"CAST({column} * 1000 AS INTEGER)"


def _quoted(column: str) -> str:
    """RFC 4180 §2: in quotes where it must be."""
    return f"""iif({column} GLOB '*[",]*', '"' || replace({column}, '"', '""') || '"', {column})"""


def _guarded(column: str) -> str:
    """The same, and with an apostrophe where a spreadsheet would take it for a formula."""
    may_be = f"({_may_be_formula(column)} OR {column} >= '{_WIDE[0]}')"
    is_one = f"{may_be} AND {column} GLOB '[{_NARROW}{_WIDE}]*'"
    return f"iif({is_one}, {_quoted(_APOSTROPHE + column)}, {_quoted(column)})"


def _row(*foreign: str, mark: bool = False) -> str:
    """A row of recipients.csv; `foreign` are the expressions for what comes from outside. `mark`: a row with what may be a formula
    has a comma too many.
    """
    address, status, diagnostic, remote_mta, category, path = foreign
    label = _by_state({state: state.label for state in RecipientState})
    action = _by_state(DSN_ACTIONS)
    sending = f"'{RecipientState.SENDING.label}'"
    waiting = f"r.state IN ({RecipientState.DEFERRED:d}, {RecipientState.UNCERTAIN:d}) AND c.id IS NULL"
    cells = (
        f"r.line, {address}, iif(c.id IS NULL, {label}, {sending}), r.attempts, iif(c.id IS NULL, {action}, NULL), {status},"
        f" iif(r.code = 0, NULL, r.code), {diagnostic}, {remote_mta}, {category}, {_moment('r.last_attempt_at')},"
        f" iif({waiting}, '{_SEPARATOR}' || {_moment('r.due_at')} || '{_SEPARATOR}', NULL), {path}"
    )
    row = f"%d,%s,%s,%d,%s,%s,%s,%s,%s,%s,{_SEPARATOR}%s{_SEPARATOR},%s,%s"
    if mark:
        row, cells = (
            f"{row}%s",
            f"{cells}, iif({' OR '.join(map(_may_be_formula, (address, diagnostic, remote_mta, path)))}, ',', NULL)",
        )
    return f"printf('{row}\r\n', {cells})"


def _may_be_formula(column: str) -> str:
    """By its place among the characters, which SQLite sees at once; most text begins with a letter, a digit or `<`."""
    return f"{column} < 'A' AND ({column} < '0' OR {column} >= '=')"


_FOREIGN = ("r.address", "r.status", "r.diagnostic", "r.remote_mta", "r.category", "m.path")


def _needs_no_quotes(text: str, rows: int) -> bool:
    """Whether these are `rows` rows of plain cells."""
    return '"' not in text and text.count(",") == rows * _COMMAS


def _needs_no_guard(text: str, rows: int) -> bool:
    """The same, and none is taken for a formula."""
    return _needs_no_quotes(text, rows) and (text.isascii() or not any(f",{char}" in text for char in _WIDE))


#: The status and the category are words of ours.
_GUARDED = tuple((_quoted if column in ("r.status", "r.category") else _guarded)(column) for column in _FOREIGN)
_ROW = Wording(_row(*_FOREIGN, mark=True), _row(*_GUARDED), _needs_no_guard)
_ROW_WITH_FORMULAS = Wording(_row(*_FOREIGN), _row(*map(_quoted, _FOREIGN)), _needs_no_quotes)

_JSON = (
    f"""'{{"at":"' || char(31) || {_moment("a.at")} || char(31) || '",' || substr(json_object('line', r.line, 'address',"""
    " r.address, 'attempt', a.number, 'result', a.result, 'dsn_status', a.status, 'smtp_code', a.code, 'diagnostic',"
    " a.diagnostic, 'relay', a.relay, 'remote_mta', a.remote_mta, 'message', m.path), 2) || char(10)"
)
_FORMAT = (
    '{"at":"%s%02d.%03d%s","line":%d,"address":"%s","attempt":%d,"result":"%s","dsn_status":"%s",'
    '"smtp_code":%s,"diagnostic":"%s","relay":"%s","remote_mta":"%s","message":"%s"}\n'
)
_MILLISECONDS = f"({_moment('a.at')} - ?1 * 1000)"
#: For attempts in the minute from the moment ?1 on, before ?2, of which ?3 and ?4 are the beginning and the end of the text.
#: Any other leaves a quote too many, and so does a null.
_PLAIN_JSON = (
    f"printf('{_FORMAT}', iif(a.at >= ?1 AND a.at < ?2, ?3, '\"'), {_MILLISECONDS} / 1000, {_MILLISECONDS} % 1000, ?4,"
    " r.line, r.address, a.number, a.result, ifnull(a.status, '\"'), ifnull(a.code, 'null'), ifnull(a.diagnostic, '\"'),"
    " ifnull(a.relay, '\"'), ifnull(a.remote_mta, '\"'), ifnull(m.path, '\"'))"
)


def _needs_no_escapes(text: str, rows: int) -> bool:
    """Whether these are `rows` lines of plain strings (RFC 8259 §7)."""
    return "\\" not in text and text.count('"') == rows * _FORMAT.count('"')


_LINE = Wording(_PLAIN_JSON, _JSON, _needs_no_escapes)


def _minute(moment: float, zone: tzinfo) -> tuple[int, int, str, str]:
    """What the plain wording of an attempt is told: the minute of `moment`, in POSIX seconds, and as text but for the seconds."""
    begin = int(moment // 60 * 60)
    before, _, after = (rfc3339(begin, zone) or "").partition("00.000")
    return begin, begin + 60, before, after


def recipients_csv(
    ledger: Ledger,
    job_id: int,
    zone: tzinfo,
    states: Collection[RecipientState] = tuple(RecipientState),
    *,
    formulas: bool = False,
) -> Iterator[bytes]:
    """RFC 4180, with a header line: all recipients of the job, or those in `states`, in pieces of whole rows. `formulas`: what a
    spreadsheet takes for such stays as it is.
    """
    yield _HEADING.encode()
    for words in ledger.recipient_texts(job_id, _ROW_WITH_FORMULAS if formulas else _ROW, states):
        yield inert(_with_moments(words, zone)).encode()


def attempts_jsonl(
    ledger: Ledger, job_id: int, after: int, zone: tzinfo, *, until: int = LAST
) -> Iterator[tuple[bytes, int]]:
    """A line of JSON for each attempt with an id above `after`, up to `until`; in pieces of whole lines, with the last
    one's id.
    """
    for text, last in ledger.attempt_texts(job_id, after, until, _LINE, lambda moment: _minute(moment, zone)):
        yield inert_json(_with_moments(text, zone).encode()), last


class _Moments(dict[str, str]):
    """What milliseconds are as text. Outcomes that were recorded together have the same moment."""

    def __init__(self, zone: tzinfo) -> None:
        self._zone = zone

    def __missing__(self, milliseconds: str) -> str:
        text = rfc3339(int(milliseconds) / 1000, self._zone) or "" if milliseconds else ""
        self[milliseconds] = text
        return text


def _with_moments(text: str, zone: tzinfo) -> str:
    if _SEPARATOR not in text:
        return text  # SQLite was told; to look for it by `split` takes long
    parts = text.split(_SEPARATOR)
    parts[1::2] = map(_Moments(zone).__getitem__, parts[1::2])
    return "".join(parts)
