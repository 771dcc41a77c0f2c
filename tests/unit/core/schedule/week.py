"""A moment to begin from, and schedules by their lines."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from spoold.core.schedule.planner import Schedule
from spoold.core.schedule.window import parse_windows

HOUR = 3600.0
#: A Tuesday.
NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC).timestamp()


def opening(*lines: str, zone: str = "UTC") -> Schedule:
    """Open in these windows, by the clock of one zone."""
    return Schedule(((parse_windows(lines), ZoneInfo(zone)),))
