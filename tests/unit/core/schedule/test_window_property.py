"""The notations of times and amounts, held against readings of them that know nothing of the code."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from spoold.core.document.field import parse_moment
from spoold.core.quantity import parse_duration, parse_size
from spoold.core.schedule.rate import parse_rate
from spoold.core.schedule.window import Windows, parse_windows
from tests.fuzz import clock, target

ZONES = ["Europe/Vienna", "America/St_Johns", "Australia/Lord_Howe", "Africa/Casablanca", "Asia/Tehran", "UTC"]
#: An hour before changes of clocks: Vienna's, New York's, Lord Howe's (half an hour), and a plain day.
CHANGES = [
    datetime(2026, month, day, hour, tzinfo=UTC) - timedelta(hours=1)
    for month, day, hour in ((3, 29, 1), (10, 25, 1), (3, 8, 5), (4, 4, 15), (10, 3, 15), (6, 15, 12))
]
spans = st.lists(st.integers(0, 7 * 1440), min_size=2, max_size=12, unique=True).map(
    lambda edges: tuple(zip(*[iter(sorted(edges)[: len(edges) // 2 * 2])] * 2, strict=True))
)


@given(spans)
def test_windows_that_are_written_out_are_read_back(wanted: tuple[tuple[int, int], ...]) -> None:
    assert parse_windows(clock.written(Windows(wanted))) == Windows(wanted)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(-120, 240), min_size=2, max_size=6, unique=True),
    st.sampled_from(ZONES),
    st.sampled_from(CHANGES),
    st.integers(-30, 30),
    st.sampled_from([0, 1, 59]),
)
def test_every_minute_around_a_change_of_clocks_is_open_as_the_wall_clock_says(
    edges: list[int], zone: str, change: datetime, minute: int, second: int
) -> None:
    # Windows that begin and end near the change, by the wall clock of the zone.
    local = change.astimezone(ZoneInfo(zone))
    here = local.weekday() * 1440 + local.hour * 60 + local.minute
    lines = [_line((here + begin) % (7 * 1440), end - begin) for begin, end in pairwise(sorted(edges))][::2]
    now = change + timedelta(minutes=minute, seconds=second)
    clock.agrees_with_the_wall_clock(parse_windows(lines), ZoneInfo(zone), now, minutes=200)


def _line(start: int, length: int) -> str:
    minute, end = start % 1440, (start % 1440 + length) % 1440
    return f"{clock.DAYS[start // 1440]} {minute // 60:02}:{minute % 60:02}-{end // 60:02}:{end % 60:02}"


PIECES = [
    *(
        "Mon",
        "fri",
        "Sunday",
        "-",
        ",",
        " ",
        "\u00a0",
        "18:00",
        "24:00",
        "0:5",
        "24:01",
        "\u0661",
        "1",
        "99999",
        "w",
        "d",
        "h",
    ),
    *(
        "m",
        "s",
        "/",
        "kB",
        "MiB",
        "2026-12-01",
        "T",
        "Z",
        "+01:00",
        "\n",
        "\0",
        "\x1b[2J",
        "\u202e",
        "\udcff",
        "x" * 300,
    ),
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=10).map("".join), st.integers(0, 127))
def test_what_is_in_no_notation_is_told_in_one_printable_line(text: str, choice: int) -> None:
    target.schedule(bytes([choice]) + text.encode(errors="surrogateescape"))


@given(st.integers(0, 520), st.integers(0, 9), st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))
def test_a_duration_is_the_sum_of_its_parts(weeks: int, days: int, hours: int, minutes: int, seconds: int) -> None:
    wanted = timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds).total_seconds()
    text = f"{weeks}w {days}d {hours}h {minutes}m {seconds}s"
    if 0 < wanted <= 3650 * 86400:
        assert parse_duration(text) == wanted
    else:
        target.notation(parse_duration, text)


@given(st.datetimes(datetime(1971, 1, 1), datetime(2999, 12, 31)), st.integers(-1439, 1439), st.sampled_from("T "))
def test_a_moment_is_read_as_the_standard_library_writes_it(naive: datetime, offset: int, separator: str) -> None:
    text = naive.isoformat(separator) + f"{'-' if offset < 0 else '+'}{abs(offset) // 60:02}:{abs(offset) % 60:02}"
    assert parse_moment(text) == datetime.fromisoformat(text)


@given(st.integers(1, 10**9 - 1), st.integers(1, 9999), st.sampled_from("smhd"))
def test_a_rate_is_its_count_in_its_time(count: int, number: int, unit: str) -> None:
    rate = parse_rate(f"{count}/{number}{unit}")
    assert (rate.count, rate.seconds) == (count, number * {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit])


@given(st.integers(1, 10**6), st.sampled_from(["B", "kB", "MB", "GB", "KiB", "MiB", "GiB"]))
def test_a_size_is_its_number_times_its_unit(number: int, unit: str) -> None:
    power = "BkMG".index(unit[0].replace("K", "k"))
    size = number * (1024 if "i" in unit else 1000) ** power
    if size <= 2**50:
        assert parse_size(f"{number}{unit}") == parse_size(f"{number} {unit.lower()}") == size
