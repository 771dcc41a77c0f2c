"""How a clock on the wall reads weekly windows: minute by minute, and without a look at the code under test."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from spoold.core.schedule.window import Windows, is_open, next_close, next_open

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def written(windows: Windows) -> list[str]:
    """The lines that mean these windows, one day each."""
    lines = []
    for start, end in windows.spans:
        for day in range(7):
            begin, close = max(start - day * 1440, 0), min(end - day * 1440, 1440)
            if begin < close:
                lines.append(f"{DAYS[day]} {begin // 60:02}:{begin % 60:02}-{close // 60:02}:{close % 60:02}")
    return lines


def agrees_with_the_wall_clock(windows: Windows, zone: ZoneInfo, now: datetime, minutes: int = 150) -> None:
    """Minute by minute, what the wall clock shows decides; next_open and next_close name the first that differs."""
    opens = [minute for start, end in windows.spans for minute in range(start, end)]
    week = bytearray(7 * 1440)
    for minute in opens:
        week[minute] = 1
    truth = []
    for step in range(minutes):
        local = (now + timedelta(minutes=step)).astimezone(zone)
        truth.append(bool(week[local.weekday() * 1440 + local.hour * 60 + local.minute]))
        assert is_open(windows, zone, now + timedelta(minutes=step)) is truth[-1]
    for search, wanted in ((next_open, True), (next_close, False)):
        found = search([(windows, zone)], now)
        first = truth.index(wanted) if wanted in truth else None
        if first is None:
            assert found is None or found > now + timedelta(minutes=minutes - 1)
        elif first == 0:
            assert found == now
        else:
            # Edges are whole minutes; `now` may stand within one.
            assert found is not None
            assert now + timedelta(minutes=first - 1) < found <= now + timedelta(minutes=first)
