"""What a person is told is wrong: a place and one line of text.

Owns the one escaper through which all foreign text (from manifests, recipients, messages, file names,
replies) passes before it appears in a report, a log line or a terminal. Knows nothing of what can go wrong.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault: `where` (`job.yaml:3:9`, `recipients.csv:4711`, or empty) and `text`, one printable line."""

    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}" if self.where else self.text


class UserError(Exception):
    """What a person can put right: a command that meets it ends with its text, one problem a line, and `exit_code`."""

    exit_code = 1


#: What `str.isprintable` lets pass and nobody sees all the same: fillers, a joiner, vowels that are not spoken, selectors of
#: variants (not those of emoji), a Braille pattern without dots.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0d\uffa0\U000e0100-\U000e01ef]"
)


def printable(text: str | bytes, limit: int = 200) -> str:
    r"""Make foreign text safe to show: one line of at most `limit` characters, cut with "…".

    Whatever `str.isprintable` refuses (controls, line separators, direction overrides, surrogates), and what nobody would see,
    becomes `\xNN`, `\uNNNN` or `\UNNNNNNNN`; bytes that are not UTF-8, and their surrogate escapes, become `\xNN`.
    """
    if isinstance(text, bytes):
        # A character has at most four bytes, so this keeps at least `limit` + 1 of them.
        text = text[: 4 * limit + 4].decode("utf-8", "surrogateescape")
    head = text[: limit + 1]
    plain = head.isprintable() and (head.isascii() or _UNSEEN.search(head) is None)
    shown = head if plain else "".join(map(_escape, head))
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def inert(text: str) -> str:
    """The same of a whole file, whose ASCII is its own."""
    return _replace(text, _escape)


def inert_json(data: bytes) -> bytes:
    """The same of JSON, by JSON's own escapes: whoever reads it gets what was written."""
    return data if data.isascii() else _replace(data.decode(), lambda char: json.dumps(char)[1:-1]).encode()


def _replace(text: str, escape: Callable[[str], str]) -> str:
    if not text.isascii():
        for char in set(text):
            if char > "\x7f" and _escape(char) != char:
                text = text.replace(char, escape(char))
    return text


def shown(value: object) -> str:
    """Name a value as it stands in a YAML file, for `expected …; got …`: `10`, `true`, `'text'`, `a list`."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case str():
            return f"'{printable(value, 80)}'"
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case _:
            return printable(str(value), 80)


def _escape(char: str) -> str:
    if char.isprintable() and _UNSEEN.match(char) is None:
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # what the surrogateescape handler made of an undecodable byte
        code -= 0xDC00
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
