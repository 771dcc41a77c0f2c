"""A message's header fields as they were written, and the addresses in them: what says to whom a message goes.

Owns the reading of address lists (RFC 5322 §3.4, with its groups, comments and display names) in linear time. Does
not decide whether an address is good: that is `address`'s. Nothing of a message is ever written again from what is
read here.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from spoold.core.message.wire import HEADER_LIMIT

# The one that `wire` reads with, here with the name and the value apart.
_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)\n?")
_MBOX = re.compile(rb"From (?![ \t]*:)[^\n]*\n")
_WORD = re.compile(
    r'"(?:[^"\\]|\\[\s\S])*+"'  # a quoted string
    r"|<[^<>]*>"  # an address with a name before it
    r"|\[[^\[\]]*\]"  # an address literal
    r'|[^"<>()\[\],;:\s]++'
    r"|\s++"
    r"|[\s\S]"
)
_AROUND = re.compile(r"\s*([@.])\s*")


@dataclass(frozen=True, slots=True)
class HeaderField:
    """One field: `name` in lower case, `value` unfolded and stripped, and where in the bytes it begins and ends."""

    name: str
    value: str
    start: int
    end: int


def header_fields(data: bytes, limit: int = HEADER_LIMIT) -> list[HeaderField]:
    """The fields at the beginning of a message (a leading mbox line is skipped), up to the first line that is none.

    Bytes that are not UTF-8 come as surrogate escapes. No field beyond `limit` bytes is read.
    """
    found = []
    mbox = _MBOX.match(data)
    position = mbox.end() if mbox else 0
    while position < limit and (match := _FIELD.match(data, position)):
        value = re.sub(rb"\r?\n", b"", match[2]).decode("utf-8", "surrogateescape").strip()
        found.append(HeaderField(match[1].decode("ascii").lower(), value, position, match.end()))
        position = match.end()
    return found


def recipients_of(fields: Iterable[HeaderField]) -> list[str]:
    """The addresses in To, Cc and Bcc, or, of a message that was sent on, in the Resent- ones (RFC 5322 §3.6.6)."""
    fields = list(fields)
    resent = any(field.name in ("resent-to", "resent-cc", "resent-bcc") for field in fields)
    wanted = {f"{'resent-' if resent else ''}{name}" for name in ("to", "cc", "bcc")}
    return [address for field in fields if field.name in wanted for address in addresses(field.value)]


def addresses(text: str) -> list[str]:
    """The addresses of an address list, as written, without names and comments: not checked in any way.

    What cannot be understood comes as it is, for the check of the address to refuse.
    """
    found: list[str] = []
    words: list[str] = []
    for word in (*_split(text), ","):
        if word in (",", ";"):
            # A group may be empty, and so may what stands between two commas (RFC 5322 §4.4).
            if words and (address := _address(words)) is not None:
                found.append(address)
            words = []
        elif word == ":" and not any(other.startswith("<") or "@" in other for other in words):
            words = []  # the name of a group
        else:
            words.append(word)
    return found


def _address(words: list[str]) -> str | None:
    """The address among the words between two commas, None where they are blank."""
    angles = [word for word in words if word.startswith("<") and word.endswith(">")]
    if angles and not words[-1].isspace() and words[-1] is not angles[-1]:
        return "".join(words).strip()  # something stands behind the address
    if len(angles) == 1:
        address = angles[0][1:-1].strip()
        # A source route is never used (RFC 5321 appendix C).
        return address.partition(":")[2] if address.startswith("@") else address
    text = "".join(words).strip()
    if angles or '"' in text:
        return text
    # Blanks around dots and @ do not count (RFC 5322 §4.4).
    return _AROUND.sub(r"\1", text) or None


def _split(text: str) -> Iterator[str]:
    """The words of an address list without its comments; what follows a quote that is never closed is one."""
    depth = 0
    position = 0
    while position < len(text):
        char = text[position]
        if depth:
            position += 2 if char == "\\" else 1
            depth += (char == "(") - (char == ")")
        elif char == "(":
            depth, position = 1, position + 1
        else:
            match = _WORD.match(text, position)
            word = match[0] if match else char
            if word == '"':
                yield text[position:]
                return
            position += len(word)
            yield word
