"""Retry policies as whole schedules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoold.core.schedule.retry import DEFAULT, RetryPolicy, next_attempt

START = 1_800_000_000.0


def schedule(policy: RetryPolicy) -> list[float]:
    """When each attempt goes, if all fail at once, in seconds from the first."""
    times = [START]
    while (due := next_attempt(policy, len(times), START, times[-1])) is not None:
        times.append(due)
    return [at - START for at in times]


def test_every_hour_for_five_days_is_the_default() -> None:
    assert schedule(DEFAULT) == [3600.0 * n for n in range(121)]


def test_last_delay_of_a_list_repeats_until_the_lifetime_ends() -> None:
    policy = RetryPolicy((300.0, 1200.0, 3600.0, 14400.0), 86400.0)
    assert schedule(policy) == [0, 300, 1500, 5100, 19500, 33900, 48300, 62700, 77100]


def test_lifetime_shorter_than_the_first_delay_means_one_attempt() -> None:
    assert schedule(RetryPolicy((3600.0,), 60.0)) == [0]


def test_agent_that_was_away_gives_up_when_the_lifetime_is_over() -> None:
    assert next_attempt(DEFAULT, 1, START, START + 5 * 86400) is None


def test_attempt_exactly_at_the_end_of_the_lifetime_still_goes() -> None:
    assert next_attempt(RetryPolicy((60.0,), 60.0), 1, START, START) == START + 60


@pytest.mark.parametrize("attempts", [0, 1])
def test_first_delay_follows_the_first_attempt(attempts: int) -> None:
    assert next_attempt(RetryPolicy((1.0, 2.0), 100.0), attempts, START, START) == START + 1


@given(st.integers(0, 10_000), st.floats(-1e9, 1e9))
def test_wait_is_never_longer_than_a_delay_whatever_the_clock_did(attempts: int, step: float) -> None:
    due = next_attempt(RetryPolicy((300.0, 3600.0), 432000.0), attempts, START, START + step)
    assert due is None or due - (START + step) <= 3600.001
