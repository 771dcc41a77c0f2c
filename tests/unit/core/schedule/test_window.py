"""Weekly windows: their notation, and when they open and close, over both changes of the clock."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoold.core.schedule.window import Windows, is_open, next_close, next_open, parse_windows, parse_zone

VIENNA = ZoneInfo("Europe/Vienna")  # 2026: forward 29 March 02:00, back 25 October 03:00; one hour
NEW_YORK = ZoneInfo("America/New_York")  # forward 8 March 02:00, back 1 November 02:00; one hour
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")  # back 5 April 02:00, forward 4 October 02:00; half an hour
ZONES = [VIENNA, NEW_YORK, LORD_HOWE, ZoneInfo("Asia/Kathmandu"), ZoneInfo("UTC")]
CHANGES = [datetime(2026, *day, tzinfo=UTC) for day in [(3, 29), (10, 25), (3, 8), (11, 1), (4, 4), (10, 3)]]


def minutes(*spans: tuple[int, int]) -> Windows:
    return Windows(tuple(spans))


def day(number: int, start: str, end: str) -> tuple[int, int]:
    """A span in minutes from Monday 00:00."""
    return tuple(number * 1440 + int(text[:2]) * 60 + int(text[3:]) for text in (start, end))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("lines", "windows"),
    [
        ([], Windows.always()),
        (["00:00-24:00"], Windows.always()),
        (["Mon-Sun 12:00-12:01", "12:01-12:00"], Windows.always()),
        (["Mon 08:00-18:00"], minutes(day(0, "08:00", "18:00"))),
        (["MONDAY 8:00 - 18:00"], minutes(day(0, "08:00", "18:00"))),
        (["Sat,Sun 00:00-24:00"], minutes((7200, 10080))),
        (["Mon, Wed 01:00-02:00"], minutes(day(0, "01:00", "02:00"), day(2, "01:00", "02:00"))),
        (["Mon-Tue,fri 01:00-02:00"], minutes(*(day(n, "01:00", "02:00") for n in (0, 1, 4)))),
        (["Sun 22:00-06:00"], minutes((0, 360), day(6, "22:00", "24:00"))),
        (["Fri-Mon 00:00-24:00"], minutes((0, 1440), (5760, 10080))),
        (["Tue 18:00-00:00"], minutes(day(1, "18:00", "24:00"))),
        (["Mon 10:00-12:00", "Mon 11:00-13:00", "Mon 13:00-14:00"], minutes(day(0, "10:00", "14:00"))),
        (
            ["22:00-06:00"],
            minutes((0, 360), *((n * 1440 + 1320, n * 1440 + 1800) for n in range(6)), (9960, 10080)),
        ),
    ],
)
def test_windows_are_read_into_spans_of_the_week(lines: list[str], windows: Windows) -> None:
    assert parse_windows(lines) == windows
    assert parse_windows(lines).is_always == (windows == Windows.always())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("25:00-26:00", "there is no 25:00 here, windows start between 00:00 and 23:59"),
        ("10:00-25:00", "there is no 25:00 here, windows end between 00:00 and 24:00"),
        ("24:00-06:00", "there is no 24:00 here"),
        ("10:00-24:01", "there is no 24:01 here"),
        ("10:60-11:00", "there is no 10:60 here"),
        ("Mon-Foo 10:00-11:00", "'Foo' is no day; days are Mon, Tue, Wed, Thu, Fri, Sat, Sun"),
        ("Mo 10:00-11:00", "'Mo' is no day"),
        ("Mon-Tue-Wed 10:00-11:00", "a range of days has two ends"),
        ("Mon, 10:00-11:00", "'' is no day"),
        ("18:00-18:00", "it ends when it starts; for the whole day write 00:00-24:00"),
        ("00:00-00:00", "it ends when it starts"),
        ("", "got ''"),
        ("Mon", "got 'Mon'"),
        ("10-12", "got '10-12'"),
        ("Mon10:00-12:00", "got"),
        ("Mon 10:00-12:00, 14:00-16:00", "got"),
        ("mon" + " " * 100_000 + "x", "got 'mon"),
        ("Mon 10:00\n-12:00", r"got 'Mon 10:00\x0a-12:00'"),
    ],
)
def test_what_is_no_window_is_told_the_right_form(line: str, reason: str) -> None:
    with pytest.raises(ValueError, match=r'^expected a window such as "Mon-Fri 18:00-08:00"') as caught:
        parse_windows(["Mon 10:00-11:00", line])
    assert reason in str(caught.value)
    assert str(caught.value).isprintable()


def test_zones_are_known_by_their_names() -> None:
    assert parse_zone("Europe/Vienna").key == "Europe/Vienna"
    assert parse_zone("UTC").key == "UTC"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("europe/vienna", "Europe/Vienna"),
        ("Europe/Viena", "Europe/Vienna"),
        ("America/New York", "America/New_York"),
        ("Mars/Olympus", ""),
        ("Europe", ""),
        ("", ""),
        ("../etc/passwd", ""),
        ("/etc/localtime", ""),
        ("a\x00b", ""),
        ("x" * 5000, ""),
        ("Europe/Vienna\n", "Europe/Vienna"),
        ("+01:00", ""),
    ],
)
def test_what_is_no_zone_is_told_with_a_near_miss(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match=r"^expected a time zone such as Europe/Vienna or UTC; got") as caught:
        parse_zone(name)
    assert str(caught.value).isprintable()
    if hint:
        assert str(caught.value).endswith(f"; did you mean {hint}?")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


@pytest.mark.parametrize(
    ("zone", "line", "now", "opens", "closes"),
    [
        # An ordinary evening, and over a week's end.
        (
            VIENNA,
            "Mon-Fri 18:00-08:00",
            "2026-06-01T12:00+02:00",
            "2026-06-01T18:00+02:00",
            "2026-06-02T08:00+02:00",
        ),
        (
            VIENNA,
            "Sun 20:00-04:00",
            "2026-06-01T05:00+02:00",
            "2026-06-07T20:00+02:00",
            "2026-06-08T04:00+02:00",
        ),
        # Forward: the hour from 02:00 does not exist. A window in it opens when the gap ends, or not at all.
        (VIENNA, "02:30-06:00", "2026-03-29T00:00+01:00", "2026-03-29T03:00+02:00", "2026-03-29T06:00+02:00"),
        (VIENNA, "01:00-02:30", "2026-03-29T00:00+01:00", "2026-03-29T01:00+01:00", "2026-03-29T03:00+02:00"),
        (
            VIENNA,
            "Sun 02:00-03:00",
            "2026-03-28T12:00+01:00",
            "2026-04-05T02:00+02:00",
            "2026-04-05T03:00+02:00",
        ),
        (VIENNA, "22:00-06:00", "2026-03-28T12:00+01:00", "2026-03-28T22:00+01:00", "2026-03-29T06:00+02:00"),
        (
            NEW_YORK,
            "02:30-06:00",
            "2026-03-08T00:00-05:00",
            "2026-03-08T03:00-04:00",
            "2026-03-08T06:00-04:00",
        ),
        (
            NEW_YORK,
            "03:00-06:00",
            "2026-03-08T01:59-05:00",
            "2026-03-08T03:00-04:00",
            "2026-03-08T06:00-04:00",
        ),
        (
            LORD_HOWE,
            "02:10-06:00",
            "2026-10-04T00:00+10:30",
            "2026-10-04T02:30+11:00",
            "2026-10-04T06:00+11:00",
        ),
        (
            LORD_HOWE,
            "Sun 02:00-02:20",
            "2026-10-04T00:00+10:30",
            "2026-10-11T02:00+11:00",
            "2026-10-11T02:20+11:00",
        ),
        # Back: the hour comes twice and counts both times.
        (VIENNA, "02:00-02:30", "2026-10-25T00:00+02:00", "2026-10-25T02:00+02:00", "2026-10-25T02:30+02:00"),
        (VIENNA, "02:00-02:30", "2026-10-25T02:40+02:00", "2026-10-25T02:00+01:00", "2026-10-25T02:30+01:00"),
        (VIENNA, "02:30-04:00", "2026-10-25T00:00+02:00", "2026-10-25T02:30+02:00", "2026-10-25T02:00+01:00"),
        (VIENNA, "02:30-04:00", "2026-10-25T02:00+01:00", "2026-10-25T02:30+01:00", "2026-10-25T04:00+01:00"),
        (VIENNA, "22:00-06:00", "2026-10-24T12:00+02:00", "2026-10-24T22:00+02:00", "2026-10-25T06:00+01:00"),
        (
            NEW_YORK,
            "01:00-02:00",
            "2026-11-01T00:00-04:00",
            "2026-11-01T01:00-04:00",
            "2026-11-01T02:00-05:00",
        ),
        (
            NEW_YORK,
            "02:00-03:00",
            "2026-11-01T01:30-04:00",
            "2026-11-01T02:00-05:00",
            "2026-11-01T03:00-05:00",
        ),
        (
            LORD_HOWE,
            "01:30-01:50",
            "2026-04-05T01:55+11:00",
            "2026-04-05T01:30+10:30",
            "2026-04-05T01:50+10:30",
        ),
        (
            LORD_HOWE,
            "01:00-02:00",
            "2026-04-05T00:00+11:00",
            "2026-04-05T01:00+11:00",
            "2026-04-05T02:00+10:30",
        ),
    ],
)
def test_windows_follow_the_wall_clock(zone: ZoneInfo, line: str, now: str, opens: str, closes: str) -> None:
    windows = parse_windows([line])
    assert not is_open(windows, zone, utc(now))
    opening = next_open([(windows, zone)], utc(now))
    assert opening == utc(opens)
    assert opening is not None
    assert is_open(windows, zone, opening)
    closing = next_close([(windows, zone)], opening)
    assert closing == utc(closes)
    assert closing is not None
    assert not is_open(windows, zone, closing)


def test_windows_of_different_zones_all_hold() -> None:
    parts = [(parse_windows(["09:00-17:00"]), VIENNA), (parse_windows(["09:00-17:00"]), NEW_YORK)]
    opening = next_open(parts, utc("2026-06-01T00:00+02:00"))
    assert opening == utc("2026-06-01T15:00+02:00")
    assert opening is not None
    assert next_close(parts, opening) == utc("2026-06-01T17:00+02:00")


def test_windows_that_only_meet_in_the_weeks_between_two_clock_changes_are_found() -> None:
    # New York changes three weeks before Vienna: six hours apart otherwise, five in those weeks.
    parts = [(parse_windows(["15:00-15:30"]), VIENNA), (parse_windows(["10:00-10:30"]), NEW_YORK)]
    assert next_open(parts, utc("2026-06-01T00:00+02:00")) == utc("2026-10-25T15:00+01:00")


def test_windows_that_exclude_each_other_never_open() -> None:
    now = utc("2026-06-01T00:00+02:00")
    day_time, night = parse_windows(["08:00-18:00"]), parse_windows(["18:00-08:00"])
    assert next_open([(day_time, VIENNA), (night, VIENNA)], now) is None
    assert next_open([(day_time, VIENNA), (night, ZoneInfo("Europe/Berlin"))], now) is None
    assert next_close([(day_time, VIENNA), (night, VIENNA)], now) == now


def test_always_is_open_now_and_never_closes() -> None:
    now = utc("2026-06-01T00:00+02:00")
    for parts in (
        [],
        [(Windows.always(), VIENNA)],
        [(Windows.always(), VIENNA), (Windows.always(), NEW_YORK)],
    ):
        assert next_open(parts, now) == now
        assert next_close(parts, now) is None
    assert is_open(Windows.always(), VIENNA, now)


def test_no_window_left_is_never_open() -> None:
    assert not is_open(Windows(()), VIENNA, utc("2026-06-01T00:00+02:00"))


def test_open_now_is_answered_with_now_itself() -> None:
    now = datetime(2026, 6, 1, 12, 0, 0, 123456, tzinfo=VIENNA)
    assert next_open([(parse_windows(["12:00-12:01"]), VIENNA)], now) == now
    assert next_close([(parse_windows(["12:00-12:01"]), VIENNA)], now) == datetime(2026, 6, 1, 12, 1, tzinfo=VIENNA)


clock = st.integers(0, 1439).map(lambda minute: f"{minute // 60:02}:{minute % 60:02}")
names = st.sampled_from(["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"])
lines = st.builds(lambda one, two, start, end: f"{one}-{two} {start}-{end}", names, names, clock, clock).filter(
    lambda line: line.split()[1].split("-")[0] != line.split()[1].split("-")[1]
)
schedules = st.lists(
    st.tuples(st.lists(lines, min_size=1, max_size=2).map(parse_windows), st.sampled_from(ZONES)),
    min_size=1,
    max_size=2,
)
moments = st.builds(
    lambda change, minute, second: change + timedelta(minutes=minute, seconds=second),
    st.sampled_from(CHANGES),
    st.integers(-600, 1800),
    st.integers(0, 59),
)


def all_open(parts: Sequence[tuple[Windows, ZoneInfo]], moment: datetime) -> bool:
    return all(is_open(windows, zone, moment) for windows, zone in parts)


def minutes_between(start: datetime, end: datetime) -> list[datetime]:
    first = start.replace(second=0, microsecond=0) + timedelta(minutes=1)
    count = min(int((end - first) / timedelta(minutes=1)), 2000)
    return [first + timedelta(minutes=n) for n in range(count)]


@given(schedules, moments)
def test_next_open_is_the_first_open_moment(parts: list[tuple[Windows, ZoneInfo]], now: datetime) -> None:
    opening = next_open(parts, now)
    if opening is None:
        assert not any(all_open(parts, moment) for moment in minutes_between(now, now + timedelta(days=8)))
        return
    assert opening >= now
    assert all_open(parts, opening)
    assert opening == now or not all_open(parts, opening - timedelta(microseconds=1))
    assert opening == now or not any(all_open(parts, moment) for moment in minutes_between(now, opening))


@given(schedules, moments)
def test_next_close_is_the_first_closed_moment(parts: list[tuple[Windows, ZoneInfo]], now: datetime) -> None:
    closing = next_close(parts, now)
    if closing is None:
        assert all(windows.is_always for windows, _ in parts)
        return
    assert closing >= now
    assert not all_open(parts, closing)
    assert closing == now or all_open(parts, closing - timedelta(microseconds=1))
    assert closing == now or all(all_open(parts, moment) for moment in minutes_between(now, closing))
