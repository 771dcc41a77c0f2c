"""Messages as bytes: what of a message file goes over the wire, and whether it may.

A message goes out as the bytes in its file, with four exceptions: line ends become CRLF, `Bcc` fields are
removed, missing `Date` and `Message-ID` fields are added, a leading mbox `From ` line is dropped. Nothing is
ever parsed into an object and written again, for that breaks signatures. Everything streams: memory is
bounded by the chunks and by the header block's limit, whatever the size of the message.

`scan` looks at a file once, when its job is taken; `prepare` makes the wire form as often as it is sent.
Both run the same transformation, so that the size announced (RFC 1870) is the size that is sent.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from spoold.core.problem import Problem

#: Octets of a line without its CRLF, RFC 5322 §2.1.1.
LINE_LIMIT = 998
#: Octets of the header block as it is in the file, without the empty line that ends it.
HEADER_LIMIT = 64 * 1024

# "From " begins an mbox envelope line; with a colon it is the obsolete form of the field (RFC 5322 §4.5).
_mbox_line = re.compile(rb"From (?![ \t]*:)[^\n]*\n?").match
# ftext of RFC 5322 §3.6.8, with the obsolete blanks before the colon; or the empty line of an empty header.
_header_start = re.compile(rb"[!-9;-~]+[ \t]*:|\r?\n").match
_before_empty_line = re.compile(rb"\n(?=\r?\n)").search
_line_with_dot = re.compile(rb"\n\.").search
_bcc_field = re.compile(rb"^bcc[ \t]*:[^\n]*\n(?:[ \t][^\n]*\n)*", re.MULTILINE | re.IGNORECASE)
# On a lower-case header block after a line feed.
_date_field = re.compile(rb"\ndate[ \t]*:").search
_message_id_field = re.compile(rb"\nmessage-id[ \t]*:").search

_NUL = "a NUL byte; encode binary content in base64"
_BARE_CR = "a carriage return (CR) that no line feed follows; line ends must be LF or CRLF"
_LONG_LINE = (
    f"the line is longer than {LINE_LIMIT} bytes; fold a header field, encode a body in quoted-printable or base64"
)
_LARGE_HEADER = (
    f"the header block is larger than {HEADER_LIMIT // 1024} KiB; is the empty line after the header missing?"
)
_EMPTY = "the message is empty"
_BOM = "the message begins with a byte order mark (EF BB BF), which hides its header; save it without"


class MessageError(Exception):
    """The message cannot be sent; `problem.where` is `NAME:LINE`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class MessageFacts:
    """What is known of a message that can be sent.

    `size` counts the wire form's octets without dot-stuffing and terminator (RFC 1870 §5). `eight_bit` says
    that the wire form has octets above 127 (the relay must offer 8BITMIME, RFC 6152), `eight_bit_header` that
    its header has some (SMTPUTF8, RFC 6531). `added` goes before everything else: the missing fields with
    their CRLF, and an empty line where the file has no header block.
    """

    size: int
    eight_bit: bool
    eight_bit_header: bool
    added: bytes


def scan(chunks: Iterable[bytes], *, name: str, date: str, message_id: str) -> MessageFacts:
    """Read a message file, in pieces of any size, once and return its facts.

    `date` and `message_id` are the values, ASCII and in RFC 5322's form, of the fields to add where they are
    missing. Raises MessageError on the first line that makes the message unsendable.
    """
    blocks = _checked(_blocks(chunks), name)
    opening = _open(blocks, name)
    fields = b"\n" + opening.header.lower()
    added = b""
    if not _date_field(fields):
        added += b"Date: %b\r\n" % date.encode("ascii")
    if not _message_id_field(fields):
        added += b"Message-ID: %b\r\n" % message_id.encode("ascii")
    if not opening.has_header:
        added += b"\r\n"

    size = len(added) + len(opening.header)
    eight_bit_header = not opening.header.isascii()
    eight_bit = eight_bit_header
    for piece in _body(opening.rest, blocks):
        size += len(piece)
        eight_bit = eight_bit or not piece.isascii()
    return MessageFacts(size, eight_bit, eight_bit_header, added)


def prepare(chunks: Iterable[bytes], added: bytes) -> Iterator[bytes]:
    """Yield the wire form of the file for which `scan` found that this must be `added`.

    No dot-stuffing and no terminator: see `stuff`. The pieces follow the chunks in size; a small
    message is mostly one.
    """
    blocks = _blocks(chunks)
    opening = _open(blocks, "message")
    body = _body(opening.rest, blocks)
    yield added + opening.header + next(body, b"")
    yield from body


def wire(content: bytes, added: bytes) -> bytes:
    """The same of a whole file at once, dot-stuffed."""
    header_end = content.find(b"\n\n")
    simple = header_end >= 0 and b"\r" not in content and not content.startswith(b"From ")
    if not simple or b"bcc" in content[:header_end].lower():
        return b"".join(stuff(prepare((content,), added)))
    lines = content.replace(b"\n", b"\r\n")
    if added:
        lines = added + lines
    if not content.endswith(b"\n"):
        lines += b"\r\n"
    lines = _stuffed(lines)
    return b"." + lines if lines.startswith(b".") else lines


def _stuffed(data: bytes) -> bytes:
    # Few messages have such a line, and to search for one by an expression takes a third of the time of `replace`.
    return data.replace(b"\n.", b"\n..") if _line_with_dot(data) else data


def stuff(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Double every dot that begins a line (RFC 5321 §4.5.2); `chunks` is a wire form, cut anywhere.

    The terminator, `.` CRLF, is the caller's to send.
    """
    at_line_start = True
    for chunk in chunks:
        if not chunk:
            continue
        if at_line_start and chunk.startswith(b"."):
            yield b"." + _stuffed(chunk)
        else:
            yield _stuffed(chunk)
        at_line_start = chunk.endswith(b"\n")


def _blocks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes as runs of whole lines; the last may lack its line end, and so may a line too long."""
    carry = b""
    for chunk in chunks:
        cut = chunk.rfind(b"\n") + 1
        if cut:
            yield carry + chunk[:cut]
            carry = chunk[cut:]
        else:
            carry += chunk
        # One more than the limit may be the CR of a CRLF.
        if len(carry) > LINE_LIMIT + 1:
            yield carry
            carry = b""
    if carry:
        yield carry


def _checked(blocks: Iterable[bytes], name: str) -> Iterator[bytes]:
    """The same blocks up to the first line that cannot be sent; there raises MessageError."""
    line = 1
    for block in blocks:
        fault = None if _is_sendable(block) else _first_fault(block)
        if fault is not None:
            good, text = fault
            # What stands before is handed out first, so that the first fault of the file is the one reported.
            if good:
                yield block[:good]
            raise _error(name, line + block.count(b"\n", 0, good), text)
        yield block
        line += block.count(b"\n")


def _is_sendable(block: bytes) -> bool:
    if b"\0" in block:
        return False
    if b"\r" in block and block.count(b"\r") != block.count(b"\r\n"):
        return False
    # From the start of one line to the last line end within the limit: a stride takes many lines.
    start = 0
    end = len(block)
    while end - start > LINE_LIMIT:
        found = block.rfind(b"\n", start, start + LINE_LIMIT + 1)
        if found < 0:
            found = start + LINE_LIMIT + 1
            if block[found - 1 : found + 1] != b"\r\n":
                return False
        start = found + 1
    return True


def _first_fault(block: bytes) -> tuple[int, str] | None:
    """The offset of the first line that cannot be sent, and why."""
    start = 0
    while start < len(block):
        end = block.find(b"\n", start)
        line = block[start:] if end < 0 else block[start:end].removesuffix(b"\r")
        if len(line) > LINE_LIMIT:
            return start, _LONG_LINE
        if b"\0" in line:
            return start, _NUL
        if b"\r" in line:
            return start, _BARE_CR
        start = len(block) if end < 0 else end + 1
    return None


@dataclass(frozen=True, slots=True)
class _Opening:
    """The beginning of a message: its header in wire form, and what was read beyond it, unchanged."""

    header: bytes
    has_header: bool
    rest: bytes


def _open(blocks: Iterator[bytes], name: str) -> _Opening:
    """Take the header block off the front of `blocks`; the empty line that ends it stays in the rest."""
    head = b""
    start = 0
    searched = 0
    for block in blocks:
        head += block
        if not searched:
            mbox = _mbox_line(head)
            start = mbox.end() if mbox else 0
            if start == len(head):
                continue
            if not _header_start(head, start):
                if head.startswith(b"\xef\xbb\xbf"):
                    raise _error(name, 1, _BOM)
                return _Opening(b"", False, head[start:])
            if head[start] in b"\r\n":
                return _Opening(b"", True, head[start:])
            searched = start
        limit = start + HEADER_LIMIT
        # Blocks are whole lines, so only the line end before an empty line can lie in the previous block.
        found = _before_empty_line(head, max(searched - 1, 0), limit + 2)
        if found and found.end() <= limit:
            return _Opening(_wire_header(head[start : found.end()]), True, head[found.end() :])
        if len(head) > limit:
            raise _error(name, head.count(b"\n", 0, limit) + 1, _LARGE_HEADER)
        searched = len(head)
    if start == len(head):
        raise _error(name, 1, _EMPTY)
    return _Opening(_wire_header(head[start:]), True, b"")


def _wire_header(raw: bytes) -> bytes:
    header = _with_crlf(raw)
    if header and not header.endswith(b"\n"):
        header += b"\r\n"
    # Most messages have none, and the search without regard to case is slow.
    if b"bcc" in header.lower():
        header = _bcc_field.sub(b"", header)
    return header


def _body(rest: bytes, blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The wire form of what follows the header: `rest` and then `blocks`, with a final CRLF."""
    for block in chain((rest,), blocks):
        if block.endswith(b"\n"):
            yield _with_crlf(block)
        elif block:
            # Only the last block can lack its line end.
            yield _with_crlf(block) + b"\r\n"


def _with_crlf(block: bytes) -> bytes:
    if b"\r" not in block:
        return block.replace(b"\n", b"\r\n")
    if block.count(b"\r\n") == block.count(b"\n"):
        return block
    return block.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def _error(name: str, line: int, text: str) -> MessageError:
    return MessageError(Problem(f"{name}:{line}", text))
