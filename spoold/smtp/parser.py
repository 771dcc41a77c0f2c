"""SMTP replies out of a stream of bytes (RFC 5321 §4.2), with bounds on what a server may send."""

import re
from functools import lru_cache

from spoold.core.problem import printable
from spoold.core.reply import Reply

#: RFC 5321 §4.5.3.1.5 allows 512 octets; servers send more. Beyond this it is no SMTP server.
MAX_LINE = 8192
MAX_LINES = 200
_LINE = re.compile(rb"([1-5]\d\d)(?:([ -])(.*))?\Z", re.DOTALL)
_TEXT_LIMIT = 1000
#: Replies up to this length are kept for when they come again.
_SHORT = 200


class ReplyError(Exception):
    """What the server sent is no SMTP reply; the text shows it, printable."""


class ReplyParser:
    """Feed it bytes; it gives the replies that they complete."""

    def __init__(self) -> None:
        self._buffer = b""
        self._code = 0
        self._lines: list[str] = []

    def feed(self, data: bytes) -> list[Reply]:
        """The replies completed by `data`. Raises ReplyError, after which the stream is of no more use."""
        self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        if len(self._buffer) > MAX_LINE:
            raise ReplyError(f"a line of over {MAX_LINE} bytes: {printable(self._buffer[:60])}")
        replies = []
        for line in lines:
            reply: Reply | None
            if not self._lines and len(line) <= _SHORT and line[3:4] == b" " and line.endswith(b"\r"):
                reply = _single(line[:-1])
            else:
                reply = self._line(line.removesuffix(b"\r"))
            if reply is not None:
                replies.append(reply)
        return replies

    def _line(self, line: bytes) -> Reply | None:
        match = _LINE.match(line)
        if match is None or len(line) > MAX_LINE:
            raise _not_a_reply(line)
        code, text = int(match[1]), (match[3] or b"").strip()
        if self._lines and code != self._code:
            raise ReplyError(f"a reply with two codes, {self._code} and {code}")
        if len(self._lines) >= MAX_LINES:
            raise ReplyError(f"a reply of over {MAX_LINES} lines")
        self._code = code
        words = printable(text, _TEXT_LIMIT)
        if self._lines:
            # Each line of a multi-line reply repeats the enhanced status code (RFC 2034 §4).
            words = re.sub(r"^[245]\.\d{1,3}\.\d{1,3}\s+", "", words)
        self._lines.append(words)
        if match[2] == b"-":
            return None
        reply = Reply(code, printable(" ".join(part for part in self._lines if part), _TEXT_LIMIT))
        self._lines = []
        return reply


@lru_cache(maxsize=256)
def _single(line: bytes) -> Reply:
    """A reply of one line. Most of what a server says, it says again and again."""
    match = _LINE.match(line)
    if match is None:
        raise _not_a_reply(line)
    return Reply(int(match[1]), printable((match[3] or b"").strip(), _TEXT_LIMIT))


def _not_a_reply(line: bytes) -> ReplyError:
    return ReplyError(f"not an SMTP reply: {printable(line[:100])}")
