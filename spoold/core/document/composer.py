"""One YAML text turned into plain values, their places and the faults in it.

Owns what is left of YAML (CONTRACT §2) and the words for its faults. Composed from PyYAML's events, not
from its nodes: anchors, aliases, merge keys, tags, duplicate keys, complex keys and second documents are
faults, and only what nobody can misread is typed (`true`, `null`, `10`, `1.5`); `22:00`, `no`, `014` and
dates stay text. The pure Python parser is used on purpose: libyaml's crashes on deep nesting.
"""

import re
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import yaml
from yaml.scanner import ScannerError

from spoold.core.problem import printable

MAX_DEPTH = 20
#: Enough for any honest file; keeps the report of a hostile one short.
MAX_PROBLEMS = 100

Value: TypeAlias = "dict[str, Value] | list[Value] | str | int | float | bool | None"
Location: TypeAlias = tuple[str | int, ...]
Position: TypeAlias = tuple[int, int]

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"-?(?:0|[1-9][0-9]{0,17})\.[0-9]{1,18}")
_WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None, "~": None, "": None}

#: How far before the end PyYAML may report what more text would have cured: the eight digits of `\UNNNNNNNN`.
_LOOK_BACK = 9


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """What is wrong at a line and column, both counted from 1."""

    line: int
    column: int
    text: str


class _Stop(Exception):  # noqa: N818 - not an error: the fault is already noted
    """Nothing can be read beyond this point."""


class _Loader(yaml.SafeLoader):
    """PyYAML's scanner and parser, which also remembers what would close the open flow collections."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.closers: list[str] = []

    def take(self) -> Any:
        """The event at hand; PyYAML's stubs give events no attributes."""
        return self.get_event()  # type: ignore[no-untyped-call]

    def look(self) -> Any:
        """The same, left where it is."""
        return self.peek_event()  # type: ignore[no-untyped-call]

    def fetch_flow_collection_start(self, token: type[yaml.Token]) -> None:
        # PyYAML scans a run of brackets to its end before it tells of the first.
        if len(self.closers) >= MAX_DEPTH:
            raise ScannerError(None, None, "nested too deep", self.get_mark())
        self.closers.append("]" if token is yaml.FlowSequenceStartToken else "}")
        super().fetch_flow_collection_start(token)

    def fetch_flow_collection_end(self, token: type[yaml.Token]) -> None:
        if self.closers:
            self.closers.pop()
        super().fetch_flow_collection_end(token)


@dataclass(slots=True)
class Composer:
    """Turns the events of one text into values, places and faults."""

    text: str
    faults: list[Fault] = field(default_factory=list)
    values: dict[Location, Position] = field(default_factory=dict)
    keys: dict[Location, Position] = field(default_factory=dict)
    closers: str = ""
    broke_off: bool = False
    """The reading ended at the end of the text, which more of it might have cured."""

    def compose(self) -> Value:
        loader = _Loader(self.text)
        value: Value = None
        try:
            value = self._document(loader)
        except _Stop:
            pass
        except yaml.MarkedYAMLError as error:
            mark, text = _explain(error, loader.get_mark())
            self.faults.append(Fault(mark.line + 1, mark.column + 1, text))
            met_at = error.problem_mark or mark
            self.broke_off = met_at.index >= len(self.text) - _LOOK_BACK
        except (ValueError, OverflowError):  # PyYAML leaves `\UFFFFFFFF` to chr()
            mark, text = loader.get_mark(), r"there is no such character; \U goes up to \U0010FFFF"
            self.faults.append(Fault(mark.line + 1, mark.column + 1, text))
        finally:
            self.closers = "".join(reversed(loader.closers))
            loader.dispose()
        return value

    def _document(self, loader: _Loader) -> Value:
        loader.take()
        if loader.check_event(yaml.StreamEndEvent):
            self.broke_off = True
            self._note(loader.take().start_mark, "the file is empty; expected `key: value` lines")
            return None
        start = loader.take()
        if start.version or start.tags:
            self._note(start.start_mark, "directives (%) are not allowed")
        root = loader.look()
        if not isinstance(root, yaml.MappingStartEvent):
            self._note(root.start_mark, "expected `key: value` lines")
            # A first key without its colon is one short line, and so far the last.
            rest = self.text[root.start_mark.index :]
            self.broke_off = isinstance(root, yaml.ScalarEvent) and len(rest) <= 1024 and "\n" not in rest
            raise _Stop
        value = self._value(loader, (), 0)
        loader.take()
        if not loader.check_event(yaml.StreamEndEvent):
            self._note(loader.take().start_mark, "a second document begins here; only one is allowed")
        return value

    def _value(self, loader: _Loader, loc: Location, depth: int) -> Value:
        event = loader.take()
        mark = event.start_mark
        self.values[loc] = (mark.line + 1, mark.column + 1)
        if isinstance(event, yaml.AliasEvent):
            self._note(mark, "aliases (*) are not allowed; put text that begins with * in quotes")
            return None
        if event.anchor is not None:
            self._note(mark, "anchors (&) are not allowed; put text that begins with & in quotes")
        if event.tag is not None:
            self._note(mark, "tags (!) are not allowed; put text that begins with ! in quotes")
        if isinstance(event, yaml.ScalarEvent):
            self._check_text(event)
            return _resolve(event.value) if event.style is None and event.tag is None else str(event.value)
        if depth >= MAX_DEPTH:
            self._note(mark, _EXPLANATIONS["nested too deep"])
            raise _Stop
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(loader, loc, depth)
        items: list[Value] = []
        while not loader.check_event(yaml.SequenceEndEvent):
            items.append(self._value(loader, (*loc, len(items)), depth + 1))
        loader.take()
        return items

    def _mapping(self, loader: _Loader, loc: Location, depth: int) -> dict[str, Value]:
        mapping: dict[str, Value] = {}
        while not loader.check_event(yaml.MappingEndEvent):
            event = loader.look()
            key = self._key(loader, depth)
            if key is not None and key not in mapping:
                self.keys[*loc, key] = (event.start_mark.line + 1, event.start_mark.column + 1)
                mapping[key] = None  # known from here on, so that its own value is not taken for the first
                mapping[key] = self._value(loader, (*loc, key), depth + 1)
                continue
            if key is not None:
                line = self.keys[*loc, key][0]
                self._note(event.start_mark, f"the key '{printable(key)}' is there twice, first in line {line}")
            kept = dict(self.values)
            self._value(loader, (*loc, ""), depth + 1)
            self.values = kept
        loader.take()
        return mapping

    def _key(self, loader: _Loader, depth: int) -> str | None:
        """The text of the key at hand, whatever it looks like; None if it is none."""
        event = loader.look()
        mark = event.start_mark
        if isinstance(event, yaml.ScalarEvent):
            if event.style is None and event.value == "<<":
                self._note(mark, "merge keys (<<) are not allowed; write the keys out")
            if event.anchor is not None or event.tag is not None:
                self._note(mark, "anchors (&) and tags (!) are not allowed")
            self._check_text(event)
            loader.take()
            return str(event.value)
        if not isinstance(event, yaml.AliasEvent):
            self._note(mark, "a key must be plain text, not a list or a mapping")
        kept = dict(self.values)
        self._value(loader, ("",), depth + 1)
        self.values = kept
        return None

    def _check_text(self, event: Any) -> None:
        if any("\ud800" <= char <= "\udfff" for char in event.value):
            self._note(event.start_mark, r"surrogates (\uD800 to \uDFFF) are no characters; use \U and eight digits")

    def _note(self, mark: yaml.Mark, text: str) -> None:
        if len(self.faults) >= MAX_PROBLEMS:
            raise _Stop
        self.faults.append(Fault(mark.line + 1, mark.column + 1, text))


def _resolve(text: str) -> Value:
    """The value of a plain scalar: typed only where nobody can misread it."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def _explain(error: yaml.MarkedYAMLError, last: yaml.Mark) -> tuple[yaml.Mark, str]:
    """PyYAML's finding in our words, and the mark to show; `last` is how far it had read."""
    mark = error.problem_mark or last
    context = error.context_mark or mark
    found = error.problem or ""
    for beginning, text in _UNFINISHED.items():
        if found.startswith(beginning):
            return context, text
    for beginning, text in _EXPLANATIONS.items():
        if found.startswith(beginning):
            return mark, text.replace("{line}", str(context.line + 1))
    return mark, f"this is no YAML: {printable(' '.join(filter(None, (error.context, found))))}"


#: What PyYAML finds (the beginning of it), and what we say; `{line}` is where what
#: it was reading begins.
_EXPLANATIONS = {
    "found character '\\t'": "a tab stands where a key or value should begin; indent with spaces",
    "found character": "a value cannot begin with this character; put it in quotes",
    "mapping values are not allowed": "a second ': ' here; put the value in quotes, or check the indentation",
    "found unknown escape": r"no such escape; in double quotes a backslash is \\; or use single quotes",
    "expected escape sequence": r"the escape is cut short: \x has 2 hexadecimal digits, \u 4, \U 8",
    "expected ',' or ']'": "expected ',' or ']' in the list that opens in line {line}",
    "expected ',' or '}'": "expected ',' or '}' in the mapping that opens in line {line}",
    "expected <block end>": "this does not fit what begins in line {line}; check the indentation",
    "sequence entries are not allowed": "a list item ('- ') cannot begin here; give it a line of its own",
    "expected the node content": "expected a value here",
    "nested too deep": f"nested too deep; at most {MAX_DEPTH} levels are allowed",
    "expected '<document start>'": "nothing more can follow here; check the indentation and the quotes",
    "mapping keys are not allowed": "a key ('? ') cannot begin here; put the value in quotes",
}
#: The same, shown where the thing begins.
_UNFINISHED = {
    "could not find expected ':'": "expected ':' and a value after this key",
    "found unexpected end of stream": "the quote that opens here is never closed",
    "found unexpected document separator": "the quote that opens here is not closed",
}
