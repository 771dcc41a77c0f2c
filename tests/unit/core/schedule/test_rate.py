"""Rates: their notation, and that no interval ever holds more than it may."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoold.core.schedule.rate import Rate, advance, parse_rate, permit_at

rates = st.builds(Rate, st.integers(1, 50), st.sampled_from([1.0, 60.0, 900.0, 3600.0, 86400.0]))
gaps = st.lists(st.floats(0, 200, allow_nan=False), min_size=1, max_size=200)
START = 1_800_000_000.0


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("1200/h", Rate(1200, 3600)),
        ("10/s", Rate(10, 1)),
        ("100/15m", Rate(100, 900)),
        ("5000/d", Rate(5000, 86400)),
        (" 60 / m ", Rate(60, 60)),
    ],
)
def test_rates_are_read(text: str, rate: Rate) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("10", "without a time, such as 10/h"),
        ("-5/h", "got '-5/h'"),
        ("0/h", "use a HOLD file"),
        ("5/0m", "more than zero"),
        ("0", "got '0'"),
        ("", "got ''"),
        ("10/", "got '10/'"),
        ("1.5/s", "got"),
        ("10/w", "got"),
        ("10 per hour", "got"),
    ],
)
def test_what_is_no_rate_is_told_the_right_form(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=r"expected a rate such as 1200/h, 10/s, 100/15m or 5000/d") as caught:
        parse_rate(text)
    assert reason in str(caught.value)


def test_first_goes_at_once_and_the_next_an_interval_later_less_the_slack() -> None:
    rate = Rate(60, 60)
    assert permit_at(None, rate, START) == START
    tat = advance(None, rate, START)
    assert permit_at(tat, rate, START) == START + 1 - rate.slack
    assert permit_at(tat, rate, START + 500) == START + 500


@given(rates, gaps, st.floats(1, 5000))
def test_no_span_ever_holds_more_than_the_rate_the_slack_and_one_unit(
    rate: Rate, waits: list[float], span_in_intervals: float
) -> None:
    now, tat = START, None
    sent: list[tuple[float, int]] = []
    for number, wait in enumerate(waits):
        now = permit_at(tat, rate, now + wait * rate.interval / 50)
        n = 1 + number % rate.unit
        sent.append((now, n))
        tat = advance(tat, rate, now, n)
    span = span_in_intervals * rate.interval
    for begin, _ in sent:
        held = sum(n for at, n in sent if begin <= at < begin + span)
        assert held <= (span + rate.slack) / rate.interval + rate.unit + 1e-3


@given(rates, st.integers())
def test_mean_is_exact_though_every_timer_is_late_within_the_slack(rate: Rate, seed: int) -> None:
    lateness = Random(seed)
    now, tat = START, None
    for _ in range(600):
        now = permit_at(tat, rate, now) + lateness.random() * rate.slack * 0.99
        tat = advance(tat, rate, now)
    assert now - START == pytest.approx(599 * rate.interval, rel=0.01, abs=2 * rate.slack)


def test_idle_time_is_not_saved_up_for_a_burst() -> None:
    rate = Rate(1, 60)
    tat = advance(advance(None, rate, START), rate, START + 86400)
    assert permit_at(tat, rate, START + 86400) == START + 86460 - rate.slack


@pytest.mark.parametrize("ahead", [7201.0, 86400.0 * 365, 1e18])
def test_clock_set_back_brings_no_standstill_and_no_burst(ahead: float) -> None:
    rate = Rate(10, 3600)
    assert permit_at(START + ahead, rate, START) == START
    assert advance(START + ahead, rate, START) == START + 360


@given(rates, st.floats(-1e9, 1e9))
def test_wait_is_never_longer_than_two_periods(rate: Rate, offset: float) -> None:
    assert START <= permit_at(START + offset, rate, START) <= START + 2 * rate.seconds + 1e-3


@pytest.mark.parametrize(("text", "unit"), [("1/d", 1), ("36000/h", 1), ("199/s", 1), ("1000/s", 10), ("50000/s", 500)])
def test_no_more_go_at_once_than_a_hundredth_of_a_second_allows(text: str, unit: int) -> None:
    assert parse_rate(text).unit == unit
