"""How many in what time: the notation `1200/h` and the generic cell rate algorithm (GCRA, ITU-T I.371).

The whole state of a rate is one float a key, the theoretical arrival time (`tat`, POSIX seconds; None
before the first): the moment from which the next one is due. It is persisted by whoever owns the key, so a
restart changes nothing. There is no burst: one goes, and the next may go one emission interval later, or
earlier by a small slack, without which every late timer would lower the rate.
"""

import re
from dataclasses import dataclass

from spoold.core.problem import shown

RATE_FORM = "a rate such as 1200/h, 10/s, 100/15m or 5000/d"

_RATE = re.compile(r"(\d{1,9}) ?/ ?(\d{0,4})([smhd])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` in any `seconds`; both more than zero."""

    count: int
    seconds: float

    @property
    def interval(self) -> float:
        """The seconds between two: the emission interval."""
        return self.seconds / self.count

    @property
    def speed(self) -> float:
        """How many a second."""
        return self.count / self.seconds

    @property
    def unit(self) -> int:
        """The most that may go at once: one, or what a hundredth of a second allows."""
        return max(1, int(self.speed / 100))

    @property
    def slack(self) -> float:
        """How many seconds early one may go, so that one who came late by no more than that loses nothing by it."""
        return max(min(self.interval / 2, 0.1), 0.01)


def parse_rate(text: str) -> Rate:
    """Read `COUNT/[NUMBER]UNIT` with the units s, m, h, d. Raises ValueError naming the right form."""
    stripped = text.strip()
    match = _RATE.fullmatch(stripped)
    if match is None:
        if re.fullmatch(r"\d{1,9}", stripped, re.ASCII) and int(stripped):
            raise ValueError(f"expected {RATE_FORM}; got {shown(text)} without a time, such as {stripped}/h")
        raise ValueError(f"expected {RATE_FORM}; got {shown(text)}")
    count, seconds = int(match[1]), int(match[2] or 1) * _SECONDS[match[3]]
    if count == 0:
        raise ValueError(f"expected {RATE_FORM}; got {shown(text)}: to send nothing for now, use a HOLD file")
    if seconds == 0:
        raise ValueError(f"expected {RATE_FORM}; got {shown(text)}: the time must be more than zero")
    return Rate(count, float(seconds))


def permit_at(tat: float | None, rate: Rate, now: float) -> float:
    """The earliest moment, not before `now`, at which one more may go.

    A `tat` more than two whole periods ahead cannot come from this rate: the clock was set back, or the
    rate was changed. It is forgotten, so that no such step ever brings a standstill; what then follows
    keeps the rate.
    """
    if tat is None or tat - rate.slack <= now or tat - now > 2 * rate.seconds + rate.slack:
        return now
    return tat - rate.slack


def advance(tat: float | None, rate: Rate, now: float, n: int = 1) -> float:
    """The new `tat` after `n`, at most `rate.unit`, went at `now`.

    Any span of W seconds holds at most (W + slack) / interval + unit, and over a long time the mean is exact: lateness
    within the slack is made up for, and idle time is not saved.
    """
    if tat is None or tat < now or tat - now > 2 * rate.seconds + rate.slack:
        tat = now
    return tat + n * rate.interval
