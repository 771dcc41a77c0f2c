"""Moments and spans as reports write them."""

from datetime import datetime, tzinfo
from functools import lru_cache


@lru_cache(maxsize=64)
def rfc3339(seconds: float | None, zone: tzinfo) -> str | None:
    """POSIX seconds as RFC 3339 in `zone`, to the millisecond; None stays None.

    Outcomes that were recorded together have the same moment: in a long list most are asked for again.
    """
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, zone).isoformat(timespec="milliseconds")


def for_people(seconds: float | None, zone: tzinfo) -> str:
    """POSIX seconds for a person, to the second."""
    if seconds is None:
        return "-"
    at = datetime.fromtimestamp(seconds, zone)
    return f"{at:%a %Y-%m-%d %H:%M:%S} {at.tzname()}"
