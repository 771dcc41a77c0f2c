"""What a person is told is wrong: a place and one line of text.

Owns the one escaper through which all foreign text (from manifests, recipients, messages, file names,
replies) passes before it appears in a report, a log line or a terminal. Knows nothing of what can go wrong.
"""

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


def printable(text: str | bytes, limit: int = 200) -> str:
    r"""Make foreign text safe to show: one line of at most `limit` characters, cut with "…".

    Whatever `str.isprintable` refuses (controls, line separators, direction overrides, surrogates) becomes
    `\xNN`, `\uNNNN` or `\UNNNNNNNN`; bytes that are not UTF-8, and their surrogate escapes, become `\xNN`.
    """
    if isinstance(text, bytes):
        # A character has at most four bytes, so this keeps at least `limit` + 1 of them.
        text = text[: 4 * limit + 4].decode("utf-8", "surrogateescape")
    head = text[: limit + 1]
    shown = head if head.isprintable() else "".join(map(_escape, head))
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


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
    if char.isprintable():
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # what the surrogateescape handler made of an undecodable byte
        code -= 0xDC00
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
