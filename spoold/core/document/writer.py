"""Values as the text of a manifest: what `composer` reads, written so that it reads the very same.

Owns the quoting. One key a line, what is in it in flow style.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime

from yaml.reader import Reader

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9@._+/-]*")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"}
#: Words that some YAML or other takes for something else than text.
_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


def manifest_text(values: Mapping[str, object], comment: str = "") -> str:
    """A document with `values`: text, numbers, booleans, moments, lists and mappings of them. Raises ValueError."""
    lines = [f"# {_comment(comment)}\n"] if comment else []
    lines += [f"{_text(key)}: {_value(value)}\n" for key, value in values.items()]
    return "".join(lines)


def _comment(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)


def _value(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return f"{value:f}"
        case str():
            return _text(value)
        case datetime():
            return _text(value.isoformat())
        case Mapping():
            return "{" + ", ".join(f"{_text(str(key))}: {_value(item)}" for key, item in value.items()) + "}"
        case Iterable() if not isinstance(value, bytes):
            return "[" + ", ".join(map(_value, value)) + "]"
        case _:
            raise ValueError(
                f"a manifest has text, numbers, true, false, lists and mappings; got {type(value).__name__}"
            )


def _text(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return '"' + "".join(map(_character, text)) + '"'


def _character(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char.isprintable() and not Reader.NON_PRINTABLE.match(char):
        return char
    code = ord(char)
    if 0xD800 <= code <= 0xDFFF:
        raise ValueError("a text in a manifest is not valid Unicode")
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
