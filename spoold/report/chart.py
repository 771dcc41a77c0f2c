"""The geometry of the charts in a page: where bars and labels stand, in percent of a drawing of any size.

Percentages let one drawing fit a phone, a screen and paper, with text of the size of all other text. What
colours and letters look like is the template's and the style sheet's.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

from spoold.core.quantity import format_duration
from spoold.core.state import RecipientState
from spoold.report.timeline import Bucket, Series, Timeline

#: A short job is drawn on this many intervals, so that three seconds do not make three walls.
_LEAST = 24
_TICKS = 5
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
#: A bar that stands for something is never invisible: percent of the height.
_VISIBLE = 0.8

#: How states follow each other in bars and legends: what is done for good first.
ORDER = (
    RecipientState.SENT, RecipientState.FAILED, RecipientState.EXPIRED, RecipientState.UNCERTAIN,
    RecipientState.DEFERRED, RecipientState.CANCELLED, RecipientState.SENDING, RecipientState.QUEUED,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Segment:
    """One coloured part of a bar, in percent of the drawing; `kind` names the colour."""

    kind: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Column:
    """All attempts of one interval, and what they say to a pointer that rests on them."""

    title: str
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Tick:
    """A label and where it stands, in percent; `minor` ones give way where it is narrow."""

    at: float
    label: str
    minor: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One interval of the same figures as a table."""

    start: str
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TimeChart:
    """Attempts over time, stacked by result."""

    columns: tuple[Column, ...]
    levels: tuple[Tick, ...]
    ticks: tuple[Tick, ...]
    series: tuple[str, ...]
    rows: tuple[Row, ...]
    width: str
    """One interval's length, in words."""
    first: str
    last: str


def time_chart(timeline: Timeline, zone: tzinfo) -> TimeChart | None:
    """The chart, None without any attempt."""
    buckets = list(timeline.buckets())
    if not buckets:
        return None
    slots = max(len(buckets), _LEAST)
    top = _ceiling(max(bucket.total for bucket in buckets))
    used = [series for series in Series if any(bucket.counts[series] for bucket in buckets)]
    precise = timeline.width < 60
    start, span = buckets[0].start, slots * timeline.width
    return TimeChart(
        columns=tuple(
            Column(_title(bucket, zone, used), tuple(_stack(bucket, number, slots, top)))
            for number, bucket in enumerate(buckets)
            if bucket.total
        ),
        levels=tuple(Tick(100 - 100 * level / top, f"{level:,}") for level in ((top, top // 2) if top > 1 else (top,))),
        ticks=tuple(_ticks(start, span, zone)),
        series=tuple(series.label for series in used),
        rows=tuple(
            Row(_moment(bucket.start, zone, precise=precise), tuple(bucket.counts[series] for series in used))
            for bucket in buckets
            if bucket.total
        ),
        width=format_duration(timeline.width),
        first=_moment(start, zone, precise=precise),
        last=_moment(buckets[-1].start + timeline.width, zone, precise=precise),
    )


def stacked(counts: Mapping[RecipientState, int]) -> tuple[Segment, ...]:
    """One horizontal bar that is 100 % wide: a part for each state, what is not tried yet left empty."""
    total = sum(counts.values())
    segments, x = [], 0.0
    for state in ORDER[:-1]:
        count = counts.get(state, 0)
        if count:
            width = 100 * count / total
            segments.append(Segment(state.label, round(x, 3), 0, round(width, 3), 100))
            x += width
    return tuple(segments)


def _stack(bucket: Bucket, number: int, slots: int, top: int) -> Iterator[Segment]:
    slot = 100 / slots
    bottom = 100.0
    for series in Series:
        count = bucket.counts[series]
        if count:
            height = max(100 * count / top, _VISIBLE)
            bottom -= height
            yield Segment(
                series.label, round(number * slot + slot * 0.1, 3), round(max(bottom, 0.0), 3), round(slot * 0.8, 3),
                round(height, 3),
            )  # fmt: skip


def _title(bucket: Bucket, zone: tzinfo, used: Sequence[Series]) -> str:
    counts = ", ".join(f"{bucket.counts[series]:,} {series.label}" for series in used if bucket.counts[series])
    return f"{_moment(bucket.start, zone, precise=True)}: {counts}"


def _ceiling(value: int) -> int:
    """The least 1, 2, 4, 6 or 10 times a power of ten that is not below `value`."""
    power = 1
    while True:
        for step in (1, 2, 4, 6):
            if step * power >= value:
                return step * power
        power *= 10


def _ticks(start: float, span: float, zone: tzinfo) -> Iterator[Tick]:
    """Round local times, few enough to stand beside each other."""
    step: float = next((step for step in _STEPS if span / step <= _TICKS), 0)
    if not step:
        step = -(-span // (_TICKS * 86400)) * 86400
    # By the clock on the wall, so that labels stay round when it is set forward or back.
    local = datetime.fromtimestamp(start, zone)
    past = (local.hour * 3600 + local.minute * 60 + local.second) // step * step
    wall = local.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(seconds=past)
    number = 0
    while (at := wall.timestamp()) <= start + span:
        place = 100 * (at - start) / span
        if 4 <= place <= 96:
            if step < 60:
                label = f"{wall:%H:%M:%S}"
            elif step < 86400 and (span <= 86400 or (wall.hour, wall.minute) != (0, 0)):
                label = f"{wall:%H:%M}"
            else:
                label = f"{wall.day} {wall:%b}"
            yield Tick(round(place, 2), label, minor=number % 2 == 1)
            number += 1
        wall += timedelta(seconds=step)


def _moment(at: float, zone: tzinfo, *, precise: bool) -> str:
    form = "%Y-%m-%d %H:%M:%S" if precise else "%Y-%m-%d %H:%M"
    return f"{datetime.fromtimestamp(at, zone):{form}}"
