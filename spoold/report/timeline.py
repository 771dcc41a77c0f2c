"""What became of a job's attempts over time, in at most `BUCKETS` intervals however many attempts and days there are.

A timeline is added to, never counted anew: it remembers the last attempt that it knows, and when its intervals no
longer suffice it makes them wider, by whole multiples, and merges what it has.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from enum import IntEnum
from typing import Self

from spoold.storage.ledger import Ledger

BUCKETS = 120
#: Seconds; each divides the next. Beyond the last, it doubles.
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


@dataclass(slots=True)
class Timeline:
    """See the module. `origin` (POSIX seconds) is where an interval begins, whatever the width: a local midnight, so that intervals
    fall on full hours and days there."""

    origin: float
    width: int = 1
    """Seconds."""
    last_id: int = 0
    """The last attempt that was added."""
    _buckets: dict[int, list[int]] = field(default_factory=dict)

    def add(self, tallies: Iterable[tuple[int, str, int]], last_id: int) -> None:
        """Add `(interval, result, count)`, the interval counted from `origin` in the present width, up to `last_id`."""
        for index, result, count in tallies:
            bucket = self._buckets.setdefault(index, [0] * len(Series))
            bucket[_SERIES.get(result, Series.UNCERTAIN)] += count
        self.last_id = last_id
        while self._buckets and max(self._buckets) - min(self._buckets) >= BUCKETS:
            self._widen()

    @classmethod
    def begin(cls, first: float, zone: tzinfo) -> Self:
        """An empty one for a job whose first attempt was at `first`, POSIX seconds."""
        midnight = datetime.fromtimestamp(first, zone).replace(hour=0, minute=0, second=0, microsecond=0)
        return cls(midnight.timestamp())

    def follow(self, ledger: Ledger, job_id: int) -> None:
        """Add the job's attempts since the last look."""
        while True:
            tallies, last_id = ledger.attempt_tallies(job_id, self.last_id, self.origin, self.width)
            if last_id == self.last_id:
                return
            self.add(tallies, last_id)

    def _widen(self) -> None:
        width = next((width for width in _WIDTHS if width > self.width), 2 * self.width)
        factor = width // self.width
        merged: dict[int, list[int]] = {}
        for index, counts in self._buckets.items():
            into = merged.setdefault(index // factor, [0] * len(Series))
            for series, count in enumerate(counts):
                into[series] += count
        self.width, self._buckets = width, merged

    def buckets(self) -> Iterator[Bucket]:
        """Every interval from the first to the last with an attempt in it, empty ones too."""
        if not self._buckets:
            return
        for index in range(min(self._buckets), max(self._buckets) + 1):
            sent, deferred, failed, uncertain = self._buckets.get(index, (0, 0, 0, 0))
            yield Bucket(self.origin + index * self.width, (sent, deferred, failed, uncertain))
