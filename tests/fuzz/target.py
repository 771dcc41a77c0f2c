"""What must hold of any bytes whatever, one function a reader of foreign input; each raises AssertionError if it does not.

The same functions serve the coverage-guided run, the replay of its findings, and the property tests.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

from spoold.core.document.composer import Value
from spoold.core.document.field import parse_moment
from spoold.core.document.reader import MAX_BYTES, DocumentError, load
from spoold.core.manifest import Manifest, parse_manifest
from spoold.core.message.wire import LINE_LIMIT, MessageError, MessageFacts, prepare, scan, stuff
from spoold.core.outcome import Command
from spoold.core.problem import Problem
from spoold.core.quantity import parse_duration, parse_size
from spoold.core.recipient.address import AddressError, parse_address
from spoold.core.recipient.list import RecipientsError, Row, read_csv, read_txt
from spoold.core.reply import Reply, read_reply
from spoold.core.schedule.rate import parse_rate
from spoold.core.schedule.window import parse_windows, parse_zone
from spoold.core.seal import parse_seal
from spoold.smtp.parser import ReplyError, ReplyParser
from tests.fuzz.clock import agrees_with_the_wall_clock, written
from tests.fuzz.reader import bare, ends_of_data, joined, pieces, receive

#: No text about a problem is longer: a list of names, an escaped value and our own words.
LONGEST = 2000


def assert_line(text: str) -> None:
    """One line that any terminal, log and report can show."""
    assert text.strip()
    assert text.isprintable(), text
    assert len(text) <= LONGEST, text


def assert_told(problems: Sequence[Problem], name: str, data: bytes) -> None:
    """Every problem is one printable line with a place that is in the file."""
    assert 1 <= len(problems) <= 100
    lines = data.count(b"\n") + data.count(b"\r") + data.count(b"\xc2\x85") + data.count(b"\xe2\x80") + 1
    for problem in problems:
        assert_line(str(problem))
        place = re.fullmatch(rf"{re.escape(name)}:(\d+)(?::(\d+))?", problem.where)
        assert place, problem
        assert 1 <= int(place[1]) <= lines, problem
        assert place[2] is None or 1 <= int(place[2]) <= len(data) + 1, problem
        assert problem.text, problem


# --- job.yaml ---------------------------------------------------------------------------------------------------------


def manifest(data: bytes) -> None:
    """A manifest or its problems, the same each time; and the same values written in another style mean the same."""
    found = _manifest(data)
    again = _manifest(data)
    if isinstance(found, DocumentError):
        assert_told(found.problems, "job.yaml", data)
        places = [tuple(map(int, problem.where.split(":")[1:])) for problem in found.problems]
        assert places == sorted(places)
        assert isinstance(again, DocumentError)
        assert (again.problems, again.incomplete) == (found.problems, found.incomplete)
        return
    assert found == again
    rewritten = flow(load(data, "job.yaml").value).encode()
    if len(rewritten) <= MAX_BYTES:
        other = _manifest(rewritten)
        assert isinstance(other, Manifest), str(other)
        assert _without_lines(other) == _without_lines(found)


def _manifest(data: bytes) -> Manifest | DocumentError:
    try:
        return parse_manifest(data)
    except DocumentError as error:
        return error


def _without_lines(found: Manifest) -> tuple[object, ...]:
    recipients: object = found.recipients
    if isinstance(recipients, tuple):
        recipients = [(each.address, each.message) for each in recipients]
    rest = (found.sender, found.sender_smtputf8, found.message, found.description, found.relay, found.expect)
    return (*rest, found.timing, found.on_uncertain, found.strict, found.allow_duplicate, found.notes, recipients)


def flow(value: Value) -> str:
    """A value in YAML's flow style, all texts in double quotes."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case dict():
            return "{" + ", ".join(f"{flow(key)}: {flow(item)}" for key, item in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(flow, value)) + "]"
        case str():
            return '"' + "".join(map(_quoted, value)) + '"'
        case _:
            return str(value)


def _quoted(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    return char if char.isascii() and char.isprintable() else f"\\U{ord(char):08x}"


# --- recipients.csv, recipients.txt ------------------------------------------------------------------------------------


def recipients(data: bytes) -> None:
    """Rows and at most one problem, whatever the pieces; the lines go up; an address is one, or told why not.

    The first octet says how the rest is read.
    """
    choice, data = (data[0], data[1:]) if data else (0, b"")
    read, name = ((read_csv, "recipients.csv"), (read_txt, "recipients.txt"))[choice & 1]
    rows, problem = _rows(read([data], name))
    assert _rows(read(pieces(data, (choice >> 1) + 1), name)) == (rows, problem)
    if problem is not None:
        assert_told([problem], name, data)
    numbers = [row.line for row in rows]
    assert all(before < after for before, after in pairwise(numbers))
    assert not numbers or (numbers[0] >= 1 and numbers[-1] <= data.count(b"\n") + 1)
    for row in rows:
        assert row.address == row.address.strip()
        assert row.message is None or row.message == row.message.strip() != ""
        address(row.address)
    if read is read_txt and problem is None:
        text = data.removeprefix(b"\xef\xbb\xbf").decode()
        expected = [line.strip() for line in text.split("\n")]
        assert [row.address for row in rows] == [line for line in expected if line]


def _rows(found: Iterable[Row]) -> tuple[list[Row], Problem | None]:
    rows = []
    try:
        for row in found:
            rows.append(row)
    except RecipientsError as error:
        return rows, error.problem
    return rows, None


def address(text: str) -> None:
    """An address that can break out of no command, or one printable line."""
    try:
        found = parse_address(text)
    except AddressError as error:
        assert_line(str(error))
        return
    wire = found.envelope.encode()
    assert not re.search(rb"[\x00-\x1f\x7f<>]", wire)
    assert b" " not in wire or found.local.startswith('"')
    assert found.envelope.isprintable()
    assert found.domain.isascii()
    assert found.smtputf8 or wire.isascii()
    assert parse_address(found.envelope) == found


# --- messages -----------------------------------------------------------------------------------------------------------

_DATE = "Tue, 01 Dec 2026 09:00:00 +0100"
_MESSAGE_ID = "<1.2@example.com>"


def message(data: bytes) -> None:
    """What scan found is what prepare sends, in whatever pieces; and no server finds its end before it is at its end.

    The first octet is the size of the pieces.
    """
    size, data = (data[0] + 1, data[1:]) if data else (1, b"")
    facts = _facts([data])
    assert _facts(pieces(data, size)) == facts
    if isinstance(facts, Problem):
        assert_told([facts], "m.eml", data)
        return
    wire = joined(prepare([data], facts.added))
    assert joined(prepare(pieces(data, size), facts.added)) == wire
    assert len(wire) == facts.size
    assert facts.eight_bit is not wire.isascii()
    assert facts.eight_bit or not facts.eight_bit_header
    assert wire.startswith(facts.added)
    assert wire.endswith(b"\r\n")
    assert bare(wire) == 0
    assert b"\0" not in wire
    assert max(map(len, wire.split(b"\r\n"))) <= LINE_LIMIT
    header = b"\r\n" + wire.partition(b"\r\n\r\n")[0].lower()
    if not wire.startswith(b"\r\n"):
        assert re.search(rb"\r\nbcc[ \t]*:", header) is None
        assert re.search(rb"\r\ndate[ \t]*:", header)
        assert re.search(rb"\r\nmessage-id[ \t]*:", header)
    if facts.added:
        again = _facts([wire])
        # Only the added lines can have made the header too large.
        assert isinstance(again, Problem) or (again.added, again.size) == (b"", facts.size)

    stuffed = joined(stuff(pieces(wire, size)))
    assert stuffed == joined(stuff([wire]))
    sent = stuffed + b".\r\n"
    assert receive(sent + b"MAIL") == (wire, b"MAIL")
    assert ends_of_data(sent) == [len(sent)]


def _facts(chunks: Iterable[bytes]) -> MessageFacts | Problem:
    try:
        return scan(chunks, name="m.eml", date=_DATE, message_id=_MESSAGE_ID)
    except MessageError as error:
        return error.problem


# --- replies ------------------------------------------------------------------------------------------------------------


def reply(data: bytes) -> None:
    """Replies, and maybe an error at the end, wherever the network cuts; all of them short and printable.

    The first octet is the size of the pieces.
    """
    size, data = (data[0] + 1, data[1:]) if data else (1, b"")
    replies, error = _replies(pieces(data, 1))
    assert len(replies) <= data.count(b"\n")
    some, same = _replies(pieces(data, size))
    assert (same is None) == (error is None)
    assert some == (replies if error is None else replies[: len(some)])
    assert_line(error or "none")
    for found in replies:
        assert 100 <= found.code < 600
        assert found.text.isprintable()
        assert len(found.text) <= 1000
        assert found.enhanced is None or found.enhanced[0] == str(found.code)[0]
        assert _replies([f"{found}\r\n".encode()]) == ([found], None)
        for command in (Command.MAIL, Command.RCPT, Command.DATA, Command.DOT):
            for accepted in (0, 1):
                verdict = read_reply(command, found, accepted=accepted)
                assert verdict.outcome.diagnostic.isprintable()
                assert re.fullmatch(r"[1-5]\.\d{1,3}\.\d{1,3}", verdict.outcome.status)
                assert_line(str(verdict.fault or verdict.outcome.diagnostic))


def _replies(chunks: Iterable[bytes]) -> tuple[list[Reply], str | None]:
    parser = ReplyParser()
    found: list[Reply] = []
    for chunk in chunks:
        try:
            found += parser.feed(chunk)
        except ReplyError as error:
            return found, str(error)
    return found, None


# --- times and amounts ----------------------------------------------------------------------------------------------------

_ZONES = tuple(map(ZoneInfo, ("UTC", "Europe/Vienna", "America/St_Johns", "Australia/Lord_Howe", "Asia/Kathmandu")))
#: Around changes of clocks, north and south.
_MOMENTS = tuple(
    datetime(2026, month, day, 1, 30, 30, tzinfo=UTC)
    for month, day in ((3, 8), (3, 29), (4, 4), (10, 3), (10, 25), (11, 1))
)


def schedule(data: bytes) -> None:
    """A window a line, and everything else that a manifest writes in a notation of its own.

    The first octet chooses the zone and the moment; from 128 on the text is a zone's name, which takes its time.
    """
    choice, data = (data[0], data[1:]) if data else (0, b"")
    text = data.decode(errors="surrogateescape")
    if choice >= 128:
        notation(parse_zone, text)
        return
    for parse in (parse_duration, parse_size, parse_rate, parse_moment):
        notation(parse, text)
    lines = text.split("\n")
    try:
        windows = parse_windows(lines)
    except ValueError as error:
        assert_line(str(error))
        return
    ends = [end for span in windows.spans for end in span]
    assert all(before < after for before, after in pairwise(ends))
    assert not ends or (ends[0] >= 0 and ends[-1] <= 7 * 24 * 60)
    assert parse_windows(written(windows)) == windows
    zone, moment = _ZONES[choice % len(_ZONES)], _MOMENTS[choice // len(_ZONES) % len(_MOMENTS)]
    agrees_with_the_wall_clock(windows, zone, moment)


def notation(parse: Callable[[str], object], text: str) -> None:
    """A value, the same each time, or one printable line."""
    try:
        found = parse(text)
    except ValueError as error:
        assert_line(str(error))
        return
    assert parse(text) == found


# --- SHA256SUMS -----------------------------------------------------------------------------------------------------------


def seal(data: bytes) -> None:
    """Hashes or what is missing, in one line; written again they are the same."""
    text = data.decode(errors="surrogateescape")
    found = parse_seal(text)
    assert parse_seal(text) == found
    if found.problem is not None:
        assert_line(found.problem)
        assert not found.hashes
        return
    for name, value in found.hashes.items():
        assert name
        assert re.fullmatch(r"[0-9a-f]{64}", value)
    lines = []
    for name, value in found.hashes.items():
        escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        lines.append(f"{'' if escaped == name else chr(92)}{value}  {escaped}\n")
    # Twice the same name is once.
    assert parse_seal("".join(lines) + f"# end {len(lines)}\n") == found


TARGETS: dict[str, Callable[[bytes], None]] = {
    "manifest": manifest,
    "recipients": recipients,
    "message": message,
    "reply": reply,
    "schedule": schedule,
    "seal": seal,
}
