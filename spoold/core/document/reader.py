"""The strict documents of the project, `job.yaml` and `spoold.yaml`: bytes in, values with their places out.

Owns the limits of size and encoding, the error that lists every problem, and the question whether a file is
wrong or merely not all there yet. What may be written in it is `composer`'s; what it must say is `form`'s.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from yaml.reader import Reader

from spoold.core.document.composer import MAX_PROBLEMS, Composer, Fault, Location, Position, Value
from spoold.core.problem import Problem, UserError, printable

MAX_BYTES = 64 * 1024
#: So much of a document is read: one byte too many shows that it has too many.
READ_BYTES = MAX_BYTES + 1

#: What could follow a file that was cut: one of these, and the closing brackets, completes it if
#: anything does.
_ENDINGS = (
    *("", "zq", '"', "'", ": zq", '": zq', "': zq", "zq: zq", "\nzq: zq", "\n"),
    *('00000000"', '00000000": zq', "00000000'", "-zq", "- zq: zq"),
)


class DocumentError(UserError):
    """All that is wrong with a document, in the order of its lines.

    `incomplete` is True only where the file breaks off, so that more bytes appended to it could cure it.
    """

    def __init__(self, problems: tuple[Problem, ...], *, incomplete: bool = False) -> None:
        super().__init__(problems, incomplete)
        self.problems = problems
        self.incomplete = incomplete

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


@dataclass(frozen=True, slots=True)
class Document:
    """A document's values as plain dict, list, str, int, float, bool, None, and the place of each.

    `values` and `keys` map a location (`("retry", "after", 0)`) to line and column, counted from 1.
    """

    name: str
    value: dict[str, Value]
    values: Mapping[Location, Position]
    keys: Mapping[Location, Position]

    def position(self, loc: Sequence[str | int]) -> Position:
        """Line and column of the value at `loc`, else of the nearest around it; foreign parts are skipped."""
        return self.values[self._nearest(loc)]

    def key_position(self, loc: Sequence[str | int]) -> Position:
        """Line and column of the key itself; that of the value where it has no key."""
        nearest = self._nearest(loc)
        is_there = nearest[-1:] == tuple(loc[-1:])
        return self.keys.get(nearest, self.values[nearest]) if is_there else self.values[nearest]

    def place(self, loc: Sequence[str | int]) -> str:
        """`NAME:LINE:COLUMN` of the value at `loc`, as `position` finds it."""
        return locate(self.name, self.position(loc))

    def _nearest(self, loc: Sequence[str | int]) -> Location:
        found: Location = ()
        for part in loc:
            if (*found, part) in self.values:
                found = (*found, part)
        return found


def locate(name: str, position: Position) -> str:
    """`NAME:LINE:COLUMN`, the form in which every problem of a document begins."""
    return f"{printable(name)}:{position[0]}:{position[1]}"


def load(data: bytes, name: str) -> Document:
    """Read one document, a mapping, at most 64 KiB of UTF-8 (a BOM is skipped).

    Raises DocumentError with every problem up to the first place where the text is no YAML any more.
    """
    if len(data) > MAX_BYTES:
        _fail(name, [Fault(1, 1, f"the file has {len(data)} bytes; at most {MAX_BYTES} (64 KiB) are read")])
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start].decode()
        fault = Fault(
            *_end(before),
            f"invalid byte {printable(data[error.start : error.start + 1])}: save the file as UTF-8",
        )
        is_cut = error.end == len(data) and error.reason == "unexpected end of data"
        _fail(name, [fault], incomplete=is_cut and _is_cut(before))
    if faults := _unprintable(text):
        _fail(name, faults)
    composer = Composer(text)
    value = composer.compose()
    if composer.faults or not isinstance(value, dict):
        _fail(name, composer.faults, incomplete=composer.broke_off and _is_curable(text, composer.closers))
    return Document(name, value, composer.values, composer.keys)


def _is_cut(text: str) -> bool:
    """Whether `text` is sound as far as it goes."""
    if _unprintable(text):
        return False
    composer = Composer(text)
    composer.compose()
    return not composer.faults or (composer.broke_off and _is_curable(text, composer.closers))


def _is_curable(text: str, closers: str) -> bool:
    for ending in _ENDINGS:
        composer = Composer(text + ending + closers)
        if isinstance(composer.compose(), dict) and not composer.faults:
            return True
    return False


def _unprintable(text: str) -> list[Fault]:
    faults: list[Fault] = []
    for match in Reader.NON_PRINTABLE.finditer(text):
        if len(faults) == MAX_PROBLEMS:
            break
        shown = "a NUL byte" if match[0] == "\0" else f"the character {printable(match[0])}"
        faults.append(Fault(*_end(text[: match.start()]), f"{shown} is not allowed in YAML"))
    return faults


def _end(text: str) -> Position:
    """Line and column just behind `text`."""
    return text.count("\n") + 1, len(text) - text.rfind("\n")


def _fail(name: str, faults: Sequence[Fault], *, incomplete: bool = False) -> NoReturn:
    problems = tuple(Problem(locate(name, (f.line, f.column)), f.text) for f in sorted(faults))
    raise DocumentError(problems, incomplete=incomplete)
