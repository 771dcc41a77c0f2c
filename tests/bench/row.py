"""What a row of the table is: what was measured, of us and of the peer, and the target that it is held against."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass


class Skipped(Exception):  # noqa: N818 - an outcome, not a fault
    """The row cannot be measured here; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A bound of a value; `unit` is put behind it."""

    at_least: bool
    value: float
    unit: str = "×"

    def met(self, value: float) -> bool:
        return value >= self.value if self.at_least else value <= self.value

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {amount(self.value, self.unit)}"


def at_least(value: float, unit: str = "×") -> Limit:
    return Limit(True, value, unit)


def at_most(value: float, unit: str = "×") -> Limit:
    return Limit(False, value, unit)


def amount(value: float, unit: str) -> str:
    """`1,234 /s`, `12.3 s`, `1.15×`, `0.125×`."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:,.{digits}f}{'' if unit == '×' else ' '}{unit}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table. `value` is held against `target`; `ratio` is ours to the peer's, None without a peer.

    `collapse` is the bound of `ratio` in a quick run; None: this line is not judged there.
    """

    what: str
    ours: str
    peer: str
    ratio: float | None
    value: float
    target: Limit
    collapse: Limit | None = None


def compared(
    what: str, ours: float, peer: float, unit: str, target: Limit, collapse: Limit | None = None, peer_is: str = ""
) -> Finding:
    """A line whose target is a ratio."""
    ratio = ours / peer
    name = f"{peer_is} " if peer_is else ""
    return Finding(what, amount(ours, unit), name + amount(peer, unit), ratio, ratio, target, collapse)


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything is measured; counts of recipients unless said otherwise."""

    drain: int
    peer: int
    fan_out: int
    latency: int
    large: int
    shared: tuple[int, ...]
    personal: int
    intake: int
    deferred_jobs: int
    small_jobs: int
    sendmail: int


QUICK = Scale(3000, 800, 30_000, 4000, 400, (1000, 8000), 0, 20_000, 20, 300, 150)
USUAL = Scale(20_000, 5000, 100_000, 20_000, 2000, (10_000, 100_000), 20_000, 200_000, 100, 3000, 1000)
#: The counts of the targets.
FULL = Scale(20_000, 5000, 100_000, 20_000, 2000, (10_000, 100_000, 1_000_000), 100_000, 1_000_000, 1000, 10_000, 2000)

Row = Callable[[Scale], Iterator[Finding]]


def progress(text: str) -> None:
    """Tell what is being measured, on standard error."""
    print(f"  {text}", file=sys.stderr, flush=True)
