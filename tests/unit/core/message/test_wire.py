"""Messages as bytes, held against a transformation written line by line."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoold.core.message.wire import HEADER_LIMIT, LINE_LIMIT, MessageError, MessageFacts, prepare, scan, stuff
from tests.fuzz.reader import cut

CORPUS = Path(__file__).parents[3] / "corpus" / "messages"
NAME = "messages/1.eml"
DATE = "Tue, 01 Dec 2026 09:00:00 +0100"
MESSAGE_ID = "<1.2@example.com>"
DATE_FIELD = b"Date: Tue, 01 Dec 2026 09:00:00 +0100\r\n"
ID_FIELD = b"Message-ID: <1.2@example.com>\r\n"


def facts_of(chunks: Iterable[bytes]) -> MessageFacts:
    return scan(chunks, name=NAME, date=DATE, message_id=MESSAGE_ID)


def wire(data: bytes) -> bytes:
    facts = facts_of([data])
    prepared = b"".join(prepare([data], facts.added))
    assert len(prepared) == facts.size
    return prepared


def refusal(data: bytes) -> str:
    with pytest.raises(MessageError) as caught:
        facts_of([data])
    assert str(caught.value) == str(caught.value.problem)
    return str(caught.value)


@dataclass
class Reference:
    """The rules once more, in the plainest form; `error` is `LINE: first words`, or empty."""

    wire: bytes = b""
    header: bytes = b""
    error: str = ""


def reference(data: bytes) -> Reference:
    *ended, tail = data.split(b"\n")
    lines = [line.removesuffix(b"\r") for line in ended] + ([tail] if tail else [])
    faults = []
    for number, line in enumerate(lines, 1):
        if len(line) > LINE_LIMIT:
            faults.append((number, 0, "the line is longer"))
        elif b"\0" in line:
            faults.append((number, 0, "a NUL byte"))
        elif b"\r" in line:
            faults.append((number, 0, "a carriage return"))

    first = 1 if re.match(rb"From (?![ \t]*:)", data) else 0
    dropped = len(data.split(b"\n")[0]) + 1 if first else 0
    kept = lines[first:]
    header: list[bytes] = []
    body = kept
    has_header = bool(kept) and (kept[0] == b"" or re.match(rb"[!-9;-~]+[ \t]*:", kept[0]) is not None)
    if not kept:
        faults.append((1, 1, "the message is empty"))
    elif has_header:
        end = kept.index(b"") if b"" in kept else len(kept)
        header, body = kept[:end], kept[end:]
        raw_size = len(b"".join(data[dropped:].splitlines(keepends=True)[:end])) if not faults else 0
        if raw_size > HEADER_LIMIT:
            faults.append((data[: dropped + HEADER_LIMIT].count(b"\n") + 1, 1, "the header block is larger"))
    elif data.startswith(b"\xef\xbb\xbf"):
        faults.append((1, 1, "the message begins with a byte order mark"))
    if faults:
        number, _, words = min(faults)
        return Reference(error=f"{number}: {words}")

    fields: list[bytes] = []
    dropping = False
    for line in header:
        if not line.startswith((b" ", b"\t")):
            dropping = re.match(rb"bcc[ \t]*:", line, re.IGNORECASE) is not None
        if not dropping:
            fields.append(line)
    added = b""
    if not any(re.match(rb"date[ \t]*:", line, re.IGNORECASE) for line in fields):
        added += DATE_FIELD
    if not any(re.match(rb"message-id[ \t]*:", line, re.IGNORECASE) for line in fields):
        added += ID_FIELD
    if not has_header:
        added += b"\r\n"
    block = b"".join(line + b"\r\n" for line in fields)
    return Reference(added + block + b"".join(line + b"\r\n" for line in body), block)


def agrees(data: bytes, chunks: Iterable[bytes], again: Iterable[bytes]) -> None:
    """Scanning and preparing in these chunks gives what the reference gives."""
    expected = reference(data)
    if expected.error:
        with pytest.raises(MessageError) as caught:
            facts_of(chunks)
        assert str(caught.value).startswith(f"{NAME}:{expected.error}")
        return
    facts = facts_of(chunks)
    assert facts.size == len(expected.wire)
    assert facts.eight_bit is not expected.wire.isascii()
    assert facts.eight_bit_header is not expected.header.isascii()
    assert b"".join(prepare(again, facts.added)) == expected.wire


def octets(data: bytes) -> Iterator[bytes]:
    return (data[i : i + 1] for i in range(len(data)))


def unstuff(data: bytes) -> bytes:
    """What a server makes of it: RFC 5321 §4.5.2."""
    return b"".join(line.removeprefix(b".") for line in data.splitlines(keepends=True))


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.eml")), ids=lambda path: path.stem)
def test_real_message_goes_out_as_its_bytes_with_the_four_exceptions(path: Path) -> None:
    data = path.read_bytes()
    assert not reference(data).error
    for version in (data, data.replace(b"\r\n", b"\n"), data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")):
        agrees(version, [version], [version])
        agrees(version, octets(version), octets(version))


PIECES = [
    *(
        b"\n",
        b"\n",
        b"\n",
        b"\r\n",
        b"\r\n",
        b"\n\n",
        b"\r\n\r\n",
        b" ",
        b"\t",
        b":",
        b".",
        b"\n.",
        b"\n..\n",
    ),
    *(b"From ", b"From: a@x.test", b"Bcc:", b"bcc :", b"BCC: a,", b"Bccx: 1", b"Resent-Bcc: a", b"To: b"),
    *(b"Date: x", b"date :", b"Message-ID: <1@x>", b"message-id:", b"Message-Id", b"text", b"\xc3\xa4"),
    *(b"y" * 499, b"z" * 998, b"X-Filler: " + b"f" * 100 + b"\n", b"\r", b"\0", b"\xef\xbb\xbf"),
    (b"X-Large: " + b"l" * 989 + b"\n") * 34,
]
MESSAGE = st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join)


@given(MESSAGE, st.lists(st.integers(0, 40)), st.lists(st.integers(0, 2000)))
def test_chunk_borders_change_nothing(data: bytes, small: list[int], large: list[int]) -> None:
    agrees(data, [data], cut(data, small))
    agrees(data, cut(data, small), cut(data, large))
    agrees(data, cut(data, large), [data])


@given(st.sampled_from([b"", b"From x\n", b"A: b\r\n"]), st.integers(63, 67), st.sampled_from([b"\n", b"\r\n"]))
def test_header_limit_is_found_whatever_the_chunks(start: bytes, lines: int, end: bytes) -> None:
    line = b"X: " + b"x" * 900 + end
    fill = HEADER_LIMIT - len(line) * (lines - 60)
    for extra in range(-3, 4):
        count, left = divmod(fill + extra, len(line))
        data = start + line * (count + lines - 60) + b"Y: " + b"y" * max(left - 4, 0) + end + end + b"body\n"
        agrees(data, [data], [data])
        agrees(data, cut(data, [1000] * 80), cut(data, [777] * 90))


@given(MESSAGE, st.lists(st.integers(0, 5)))
def test_stuffed_message_is_unstuffed_to_itself(data: bytes, sizes: list[int]) -> None:
    form = data.replace(b"\r", b"").replace(b"\n", b"\r\n") + b"\r\n"
    stuffed = b"".join(stuff([form]))
    assert b"".join(stuff(cut(form, sizes))) == stuffed
    assert b"".join(stuff(octets(form))) == stuffed
    assert not stuffed.startswith(b".\r\n")
    assert b"\r\n.\r\n" not in stuffed
    assert unstuff(stuffed) == form


def test_missing_fields_are_put_first_and_the_rest_stays() -> None:
    assert wire(b"Subject: x\n\nHi\n") == DATE_FIELD + ID_FIELD + b"Subject: x\r\n\r\nHi\r\n"
    assert wire(b"DATE: x\n\nHi\n") == ID_FIELD + b"DATE: x\r\n\r\nHi\r\n"
    assert wire(b"message-id : y\nDate\t: x\n\n") == b"message-id : y\r\nDate\t: x\r\n\r\n"


def test_fields_in_the_body_or_folded_into_others_do_not_count() -> None:
    data = b"Subject: x\n Date: 1\n\nDate: 2\nMessage-ID: 3\nBcc: eve@x.test\n"
    assert wire(data) == DATE_FIELD + ID_FIELD + data.replace(b"\n", b"\r\n")


def test_bcc_fields_are_removed_with_their_folded_lines() -> None:
    data = (
        b"Bcc: a@x.test,\r\n\tb@x.test\r\n \r\n c@x.test\r\nDate: x\r\nbCC : d@x.test\r\nMessage-ID: y\r\n"
        b"Bccs: stays\r\nX: Bcc: stays\r\nBCC:\r\n\r\nBcc: stays\r\n"
    )
    assert wire(data) == b"Date: x\r\nMessage-ID: y\r\nBccs: stays\r\nX: Bcc: stays\r\n\r\nBcc: stays\r\n"


def test_message_of_bcc_alone_keeps_no_trace_of_it() -> None:
    assert wire(b"Bcc: a@x.test") == DATE_FIELD + ID_FIELD


def test_mbox_line_is_dropped_only_in_front() -> None:
    head = b"Date: x\nMessage-ID: y\n"
    assert wire(b"From a@x.test Mon Jan  1\n" + head + b"\nFrom me\n") == (
        b"Date: x\r\nMessage-ID: y\r\n\r\nFrom me\r\n"
    )
    assert wire(b"From   : a@x.test\n" + head) == b"From   : a@x.test\r\nDate: x\r\nMessage-ID: y\r\n"
    assert wire(b"From a\nFrom b\n") == DATE_FIELD + ID_FIELD + b"\r\nFrom b\r\n"


@pytest.mark.parametrize("text", [b"Hello", b"Hello\n\nDate: 1\n", b" Date: folded\n", b"na me: x\n", b"n\xe4me: x\n"])
def test_file_without_header_is_all_body(text: bytes) -> None:
    facts = facts_of([text])
    assert facts.added == DATE_FIELD + ID_FIELD + b"\r\n"
    assert not facts.eight_bit_header
    assert wire(text) == facts.added + text.replace(b"\n", b"\r\n") + (b"" if text.endswith(b"\n") else b"\r\n")


@pytest.mark.parametrize("text", [b"\nBcc: body\n", b"\r\nBcc: body\r\n"])
def test_leading_blank_line_is_an_empty_header(text: bytes) -> None:
    assert wire(text) == DATE_FIELD + ID_FIELD + b"\r\nBcc: body\r\n"


def test_header_without_body_and_malformed_lines_pass() -> None:
    assert wire(b"Date: x\nnot a field\nMessage-ID: y") == b"Date: x\r\nnot a field\r\nMessage-ID: y\r\n"


def test_eight_bit_tells_header_from_body_and_ignores_what_is_removed() -> None:
    plain = facts_of([b"Bcc: \xc3\xa4\n\nx\n"])
    assert (plain.eight_bit, plain.eight_bit_header) == (False, False)
    body = facts_of([b"A: b\n\n\xc3\xa4\n"])
    assert (body.eight_bit, body.eight_bit_header) == (True, False)
    header = facts_of([b"A: \xc3\xa4\n\nx\n"])
    assert (header.eight_bit, header.eight_bit_header) == (True, True)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "messages/1.eml:1: the message is empty"),
        (b"From a@x.test Mon Jan  1\n", "messages/1.eml:1: the message is empty"),
        (b"A: b\n\nx\0y\n", "messages/1.eml:3: a NUL byte"),
        (b"A: b\r\n\r\nx\ry\r\n", "messages/1.eml:3: a carriage return (CR)"),
        (b"A: b\r\n\r\nx\r", "messages/1.eml:3: a carriage return (CR)"),
        (b"A: b\r\r\n", "messages/1.eml:1: a carriage return (CR)"),
        (b"A: b\n\n" + b"x" * 999, "messages/1.eml:3: the line is longer than 998 bytes"),
        (b"A: b\nBcc: " + b"x" * 999 + b"\n\n", "messages/1.eml:2: the line is longer than 998 bytes"),
        (b"From " + b"x" * 999 + b"\n\n", "messages/1.eml:1: the line is longer than 998 bytes"),
        (b"X: y\n" * 20_000 + b"\n", "messages/1.eml:13108: the header block is larger than 64 KiB"),
        (b"\xef\xbb\xbfFrom: a@x.test\n\n", "messages/1.eml:1: the message begins with a byte order mark"),
        (b"A: b\n\n" + b"x" * 999 + b"\n\0\n", "messages/1.eml:3: the line is longer than 998 bytes"),
    ],
)
def test_unsendable_message_is_refused_with_line_and_reason(data: bytes, text: str) -> None:
    assert refusal(data).startswith(text)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_line_of_998_bytes_passes(end: bytes) -> None:
    line = b"x" * 998
    assert wire(b"\n" + line + end).endswith(b"\r\n" + line + b"\r\n")


def test_line_without_end_is_refused_before_it_fills_the_memory() -> None:
    def endless() -> Iterator[bytes]:
        yield b"A: b\n\n"
        while True:
            yield b"x" * 100

    with pytest.raises(MessageError, match=r"^messages/1\.eml:3: the line is longer"):
        facts_of(endless())


def test_small_message_is_prepared_in_one_piece() -> None:
    data = b"A: b\n\nHi\n"
    assert len(list(prepare([data], facts_of([data]).added))) == 1


def test_pieces_of_a_large_message_are_bounded_by_the_chunks() -> None:
    chunk = b"line\n" * 10_000
    chunks = [b"A: b\n\n", *[chunk] * 20]
    facts = facts_of(chunks)
    assert max(map(len, prepare(chunks, facts.added))) <= len(chunk) * 2
    assert sum(map(len, prepare(chunks, facts.added))) == facts.size
