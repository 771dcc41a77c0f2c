"""Durations and sizes as people write them: `90s`, `1h30m`, `5d`; `64KiB`, `50MB`.

Owns their notation, both ways. Durations are float seconds, sizes int bytes.
"""

import re

from spoold.core.problem import shown

DURATION_FORM = "a duration such as 90s, 5m, 1h30m, 5d or 2w"
SIZE_FORM = "a size such as 64KiB, 50MB or a number of bytes"

#: Longer than any mail waits; keeps every sum of moments far inside what datetime can hold.
MAX_DURATION = 3650 * 86400.0
MAX_SIZE = 2**50

_SECONDS = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?:(\d+)w)? ?(?:(\d+)d)? ?(?:(\d+)h)? ?(?:(\d+)m)? ?(?:(\d+)s)?", re.ASCII)
_SIZE = re.compile(r"(\d{1,15}) ?(|b|kb|mb|gb|tb|kib|mib|gib|tib)", re.ASCII | re.IGNORECASE)
_BYTES = {"": 1, "b": 1} | {
    f"{prefix}{infix}b": base**power
    for infix, base in (("", 1000), ("i", 1024))
    for power, prefix in enumerate("kmgt", 1)
}


def parse_duration(text: str) -> float:
    """Read a duration into seconds, more than 0 and at most `MAX_DURATION`.

    Units are w, d, h, m (minutes), s: whole numbers, longest first. Raises ValueError naming the right form.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None or match.lastindex is None:
        raise ValueError(f"expected {DURATION_FORM}; got {shown(text)}")
    seconds = sum(
        min(float(number), MAX_DURATION) * unit
        for number, unit in zip(match.groups(), _SECONDS.values(), strict=True)
        if number is not None
    )
    if seconds == 0:
        raise ValueError(f"expected {DURATION_FORM}, more than zero; got {shown(text)}")
    if seconds > MAX_DURATION:
        raise ValueError(f"expected {DURATION_FORM}, at most 3650d; got {shown(text)}")
    return seconds


def format_duration(seconds: float) -> str:
    """Write a duration for people, in its two largest units: `45 s`, `1 h 5 min`, `2 d 3 h`.

    What is below zero is shown as `0 s`. The value is rounded to its smaller shown unit, never up to `60
    min`.
    """
    left = max(0, round(seconds))
    if left >= 86400:
        left = round(left / 3600) * 3600
    elif left >= 3600:
        left = round(left / 60) * 60
    parts = []
    for size, name in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        amount, left = divmod(left, size)
        if amount:
            parts.append(f"{amount} {name}")
    return " ".join(parts[:2]) or "0 s"


def parse_size(text: str | int) -> int:
    """Read a size into bytes, more than 0: an int, or a whole number with B, kB, MB, GB, TB, KiB, MiB, GiB,
    TiB.

    Raises ValueError naming the right form.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        size = text
    else:
        match = _SIZE.fullmatch(text.strip()) if isinstance(text, str) else None
        if match is None:
            raise ValueError(f"expected {SIZE_FORM}; got {shown(text)}")
        size = int(match[1]) * _BYTES[match[2].lower()]
    if not 0 < size <= MAX_SIZE:
        raise ValueError(f"expected {SIZE_FORM}, more than zero and at most 1024TiB; got {shown(text)}")
    return size
