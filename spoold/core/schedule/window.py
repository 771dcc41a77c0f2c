"""The weekly schedule: which hours of which days are open, in the job's own time zone.

Windows are read against the wall clock, so they follow daylight saving time: an hour that does not exist
opens when the gap ends, an hour that comes twice counts both times. All arithmetic between moments is done
in UTC.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from spoold.core.problem import shown

WINDOW_FORM = 'a window such as "Mon-Fri 18:00-08:00", "Sat,Sun 00:00-24:00" or "22:00-06:00"'

_DAY = 24 * 60
_WEEK = 7 * _DAY
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_WINDOW = re.compile(r"(?:([a-z ,-]+?) +)?(\d{1,2}):(\d{2}) ?- ?(\d{1,2}):(\d{2})", re.ASCII | re.IGNORECASE)
_ZONE = re.compile(r"[A-Za-z0-9_+-]{1,40}(?:/[A-Za-z0-9_+-]{1,40}){0,3}", re.ASCII)
_MINUTE = timedelta(minutes=1)

#: Beyond this no opening is looked for: every constellation of weekdays and clock changes has come by then.
_HORIZON = timedelta(days=400)


@dataclass(frozen=True, slots=True)
class Windows:
    """Open spans of the local week: half-open, sorted, apart, in minutes from Monday 00:00 (0 to 10080)."""

    spans: tuple[tuple[int, int], ...]

    @classmethod
    def always(cls) -> "Windows":
        """Open at every moment: what no windows at all mean."""
        return cls(((0, _WEEK),))

    @property
    def is_always(self) -> bool:
        """Whether there is no closed moment."""
        return self.spans == ((0, _WEEK),)


def parse_windows(lines: Sequence[str]) -> Windows:
    """Read `DAYS HH:MM-HH:MM` lines; their union is open, no line at all means always.

    Days are English names of three letters or full, in any case, with ranges and commas, and may be left
    out for every day. A range may wrap (`Fri-Mon`); an end at or before its start is on the next day.
    Raises ValueError naming the right form.
    """
    if not lines:
        return Windows.always()
    return _merge([span for line in lines for span in _parse_line(line)])


def parse_zone(name: str) -> ZoneInfo:
    """The zone of an IANA name such as `Europe/Vienna`. Raises ValueError, with a near miss if any."""
    try:
        if _ZONE.fullmatch(name):
            return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        pass  # OSError: a directory of the zone database, such as Europe
    known = {zone.lower(): zone for zone in available_timezones()}
    near = get_close_matches(name.strip().lower().replace(" ", "_")[:80], known, n=1, cutoff=0.7)
    hint = f"; did you mean {known[near[0]]}?" if near else ""
    raise ValueError(f"expected a time zone such as Europe/Vienna or UTC; got {shown(name)}{hint}")


def is_open(windows: Windows, zone: ZoneInfo, now: datetime) -> bool:
    """Whether the wall clock of `zone` at the aware moment `now` stands inside a window."""
    return windows.is_always or (bool(windows.spans) and _until(windows, zone, now)[0])


def next_open(windows_list: Sequence[tuple[Windows, ZoneInfo]], now: datetime) -> datetime | None:
    """The first moment from `now` on at which all are open: `now` itself if they are, else in UTC.

    None if there is none within 400 days: the windows exclude each other.
    """
    groups = _by_zone(windows_list)
    if any(not windows.spans for windows, _ in groups):
        return None
    moment = now
    while moment - now <= _HORIZON:
        waits = [
            change for windows, zone in groups if (change := _next_state(windows, zone, moment, open_=True)) != moment
        ]
        if not waits:
            return moment
        if None in waits:
            return None
        moment = max(change for change in waits if change is not None)
    return None


def next_close(windows_list: Sequence[tuple[Windows, ZoneInfo]], now: datetime) -> datetime | None:
    """The first moment from `now` on at which not all are open: `now` itself if they are not, else in UTC.

    None if all are always open.
    """
    closes = [_next_state(windows, zone, now, open_=False) for windows, zone in _by_zone(windows_list)]
    return min((moment for moment in closes if moment is not None), default=None)


def _parse_line(line: str) -> list[tuple[int, int]]:
    def wrong(reason: str = "") -> ValueError:
        return ValueError(f"expected {WINDOW_FORM}; got {shown(line)}{reason and ': '}{reason}")

    # The length is bounded because the expression backtracks.
    match = _WINDOW.fullmatch(line.strip()) if len(line) <= 200 else None
    if match is None:
        raise wrong()
    hours = [int(number) for number in match.groups()[1:]]
    for hour, minute, last in ((*hours[:2], 23), (*hours[2:], 24)):
        if hour > last or minute > 59 or (hour == 24 and minute):
            bounds = "start between 00:00 and 23:59" if last == 23 else "end between 00:00 and 24:00"
            raise wrong(f"there is no {hour:02}:{minute:02} here, windows {bounds}")
    start, end = hours[0] * 60 + hours[1], hours[2] * 60 + hours[3]
    if start == end:
        raise wrong("it ends when it starts; for the whole day write 00:00-24:00")
    if end < start:
        end += _DAY
    try:
        days = _parse_days(match[1]) if match[1] else range(7)
    except ValueError as error:
        raise wrong(str(error)) from None
    return [(day * _DAY + start, day * _DAY + end) for day in days]


def _parse_days(text: str) -> list[int]:
    days: list[int] = []
    for part in text.split(","):
        first, *rest = (_parse_day(name) for name in part.split("-"))
        if len(rest) > 1:
            raise ValueError("a range of days has two ends, as in Mon-Fri")
        last = rest[0] if rest else first
        days += [(first + step) % 7 for step in range((last - first) % 7 + 1)]
    return days


def _parse_day(text: str) -> int:
    name = text.strip().lower()
    for number, day in enumerate(_DAYS):
        if name in (day, day[:3]):
            return number
    raise ValueError(f"{shown(text.strip())} is no day; days are Mon, Tue, Wed, Thu, Fri, Sat, Sun")


def _merge(spans: Sequence[tuple[int, int]]) -> Windows:
    """Bring spans, which may run past Sunday midnight, into the form that `Windows` promises."""
    wrapped = [(start, min(end, _WEEK)) for start, end in spans]
    wrapped += [(0, end - _WEEK) for _, end in spans if end > _WEEK]
    merged: list[tuple[int, int]] = []
    for start, end in sorted(wrapped):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return Windows(tuple(merged))


def _by_zone(windows_list: Sequence[tuple[Windows, ZoneInfo]]) -> list[tuple[Windows, ZoneInfo]]:
    """Intersect what shares a wall clock, and drop what is always open."""
    groups: dict[str, tuple[Windows, ZoneInfo]] = {}
    for windows, zone in windows_list:
        if windows.is_always:
            continue
        key = zone.key or str(id(zone))
        known = groups.get(key)
        groups[key] = (_intersect(known[0], windows) if known else windows, zone)
    return list(groups.values())


def _intersect(one: Windows, two: Windows) -> Windows:
    common: list[tuple[int, int]] = []
    first, second = 0, 0
    while first < len(one.spans) and second < len(two.spans):
        (start, end), (other_start, other_end) = one.spans[first], two.spans[second]
        if max(start, other_start) < min(end, other_end):
            common.append((max(start, other_start), min(end, other_end)))
        if end <= other_end:
            first += 1
        else:
            second += 1
    return Windows(tuple(common))


def _until(windows: Windows, zone: ZoneInfo, moment: datetime) -> tuple[bool, timedelta]:
    """Whether it is open at `moment`, and how far the wall clock has to run until that changes."""
    local = moment.astimezone(zone)
    since_monday = timedelta(local.weekday(), local.second, local.microsecond, minutes=local.hour * 60 + local.minute)
    for start, end in windows.spans:
        if since_monday < start * _MINUTE:
            return False, start * _MINUTE - since_monday
        if since_monday < end * _MINUTE:
            if end == _WEEK and windows.spans[0][0] == 0:
                end += windows.spans[0][1]
            return True, end * _MINUTE - since_monday
    return False, (_WEEK + windows.spans[0][0]) * _MINUTE - since_monday


def _next_state(windows: Windows, zone: ZoneInfo, now: datetime, *, open_: bool) -> datetime | None:
    """The first moment from `now` on in which the state is `open_`; None if not within the horizon."""
    if not windows.spans:
        return None if open_ else now
    state, run = _until(windows, zone, now)
    if state is open_:
        return now
    moment = start = now.astimezone(UTC)
    while moment - start <= _HORIZON:
        change = _clock_change(zone, moment, moment + run)
        if change is None:
            return moment + run
        # Up to the change the wall clock ran evenly and met no edge: whatever is true now is decided here.
        moment = change
        state, run = _until(windows, zone, moment)
        if state is open_:
            return moment
    return None


def _clock_change(zone: ZoneInfo, after: datetime, until: datetime) -> datetime | None:
    """The moment in (after, until] at which the zone's offset changes, if the two differ. Both are in UTC.

    At most a week lies between them: no zone changes its clock there and back within that.
    """
    offset = after.astimezone(zone).utcoffset()
    if until.astimezone(zone).utcoffset() == offset:
        return None
    low, high = after, until
    while high - low > timedelta(microseconds=1):
        middle = low + (high - low) / 2
        if middle.astimezone(zone).utcoffset() == offset:
            low = middle
        else:
            high = middle
    return high
