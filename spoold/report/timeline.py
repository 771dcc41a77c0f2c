"""What became of a job's attempts over time, in at most `BUCKETS` intervals however many attempts and days there are."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, tzinfo
from enum import IntEnum
from itertools import chain, count
from typing import Self

from spoold.storage.ledger import Ledger

BUCKETS = 120
#: Seconds. Beyond the last, it doubles.
_WIDTHS = (1, 2, 10, 30, 60, 300, 900, 1800, 3600, 7200, 21600, 43200, 86400)


class Series(IntEnum):
    """The kinds of result that are told apart, in the order in which they are shown."""

    SENT = 0
    DEFERRED = 1
    FAILED = 2
    UNCERTAIN = 3

    @property
    def label(self) -> str:
        return self.name.lower()


#: An attempt's result, as stored, to its series; giving up is a failure.
_SERIES = {
    "sent": Series.SENT,
    "deferred": Series.DEFERRED,
    "failed": Series.FAILED,
    "expired": Series.FAILED,
    "uncertain": Series.UNCERTAIN,
}

Counts = tuple[int, int, int, int]
"""Attempts by `Series`."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """The attempts from `start` (POSIX seconds) on, for one width."""

    start: float
    counts: Counts

    @property
    def total(self) -> int:
        return sum(self.counts)


@dataclass(frozen=True, slots=True)
class Timeline:
    """See the module."""

    origin: int
    """POSIX seconds: where an interval begins, whatever the width. A local midnight, so that intervals fall on full hours and days
    there."""
    width: int
    """Seconds."""
    counts: Mapping[int, Counts]
    """By interval from `origin` on; those without an attempt may be missing."""

    @classmethod
    def of(cls, ledger: Ledger, job_id: int, zone: tzinfo) -> Self:
        """The job's, an empty one before its first attempt."""
        span = ledger.attempt_span(job_id)
        if span is None:
            return cls(0, 1, {})
        first, last = span
        midnight = datetime.fromtimestamp(first, zone).replace(hour=0, minute=0, second=0, microsecond=0)
        origin = int(midnight.timestamp())
        width = fitting_width(first - origin, last - origin)
        return cls(origin, width, counted(ledger.attempt_tallies(job_id, origin, width, last)))

    def buckets(self) -> Iterator[Bucket]:
        """Every interval from the first to the last with an attempt in it, empty ones too."""
        for index in range(min(self.counts), max(self.counts) + 1) if self.counts else ():
            yield Bucket(self.origin + index * self.width, self.counts.get(index, (0, 0, 0, 0)))


def counted(tallies: Iterable[tuple[int, str, int]]) -> dict[int, Counts]:
    """Counts by interval, of `(interval, result, count)`."""
    counts: dict[int, list[int]] = {}
    for index, result, number in tallies:
        counts.setdefault(index, [0] * len(Series))[_SERIES.get(result, Series.UNCERTAIN)] += number
    return {index: (each[0], each[1], each[2], each[3]) for index, each in counts.items()}


def fitting_width(first: int, last: int) -> int:
    """The least width of which `BUCKETS` intervals reach from `first` to `last`, both in seconds from where one begins."""
    widths = chain(_WIDTHS, (_WIDTHS[-1] << doubled for doubled in count(1)))
    return next(width for width in widths if last // width - first // width < BUCKETS)
