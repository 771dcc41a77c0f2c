"""Durations and sizes as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoold.core.quantity import format_duration, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("5m", 300),
        ("1h", 3600),
        ("5d", 432000),
        ("2w", 1209600),
        ("1h30m", 5400),
        ("1d 12h", 129600),
        (" 1s ", 1),
        ("1w2d3h4m5s", 788645),
        ("3650d", 315360000),
    ],
)
def test_durations_are_read_into_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "10",
        "h",
        "5 d",
        "1.5h",
        "-1h",
        "1h1h",
        "30m1h",
        "0s",
        "0h0m",
        "5D",
        "1y",
        "٣h",
        "3651d",
        "9" * 400 + "w",
    ],
)
def test_what_is_no_duration_is_told_the_right_form(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected a duration such as 90s, 5m, 1h30m, 5d or 2w.*; got"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (-5, "0 s"),
        (0.4, "0 s"),
        (45, "45 s"),
        (59.7, "1 min"),
        (90, "1 min 30 s"),
        (3900, "1 h 5 min"),
        (3599.9, "1 h"),
        (7170, "2 h"),
        (86399, "1 d"),
        (97200, "1 d 3 h"),
        (90000.0, "1 d 1 h"),
        (86400 * 40, "40 d"),
    ],
)
def test_durations_are_shown_in_two_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(1, 86399))
def test_what_is_shown_of_less_than_a_day_is_right_to_half_a_minute(seconds: int) -> None:
    shown = format_duration(seconds).replace(" min", "m").replace(" ", "")
    assert abs(parse_duration(shown) - seconds) <= 30


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("50MB", 50000000),
        ("64KiB", 65536),
        ("1 GiB", 2**30),
        ("10kb", 10000),
        ("7B", 7),
        ("7", 7),
        (1234, 1234),
        ("2TB", 2 * 10**12),
    ],
)
def test_sizes_are_read_into_bytes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "5M", "1.5GB", "-1", "0", 0, -1, True, 2**60, "9999999TB", "5 mega"])
def test_what_is_no_size_is_told_the_right_form(text: str | int) -> None:
    with pytest.raises(ValueError, match=r"expected a size such as 64KiB, 50MB or a number of bytes.*; got"):
        parse_size(text)
