"""How the number of connections follows what they carry, played with an exact relay model."""

import pytest

from spoold.smtp.concurrency import CROWDED, Concurrency


def play(concurrency: Concurrency, carries: dict[int, float], seconds: float, now: float = 0.0) -> list[int]:
    """The widths used over `seconds` on a relay that carries so many messages a second with each width."""
    widths = [concurrency.width]
    end = now + seconds
    while now < end:
        now += 1 / carries[concurrency.width]
        concurrency.ended(now, concurrency.width, busy=True)
        if concurrency.width != widths[-1]:
            widths.append(concurrency.width)
    return widths


def test_width_grows_up_to_the_limit_while_each_step_carries_more() -> None:
    latency = {width: width / 0.02 for width in (1, 4, 16, 64, 100)}
    assert play(Concurrency(100), latency, 1.0) == [1, 4, 16, 64, 100]


def test_width_goes_back_one_step_when_more_carry_less() -> None:
    crowding = {1: 100.0, 4: 300.0, 8: 350.0, 16: 100.0}
    assert play(Concurrency(20), crowding, 4.0) == [1, 4, 16, 4]


def test_after_a_step_back_the_next_ones_are_smaller() -> None:
    crowding = {1: 100.0, 4: 300.0, 8: 350.0, 16: 100.0}
    assert play(Concurrency(20), crowding, 9.0)[:5] == [1, 4, 16, 4, 8]


def test_one_bad_measurement_is_not_believed() -> None:
    concurrency = Concurrency(4)
    now = 0.0
    while concurrency.width < 2:
        now += 0.01
        concurrency.ended(now, 1, busy=True)
    now += 0.5  # a disk that was slow to sync, once
    for _ in range(100):
        now += 0.005
        concurrency.ended(now, concurrency.width, busy=True)
    assert concurrency.width == 4


def test_a_try_that_brought_nothing_comes_again_later_and_later() -> None:
    crowding = {1: 100.0, 2: 80.0}
    assert play(Concurrency(2), crowding, 40.0) == [1, 2, 1, 2, 1, 2, 1, 2, 1], "after 5, 10, 20 and 40 seconds"


def test_width_stays_where_the_connections_are_not_busy() -> None:
    concurrency = Concurrency(20)
    for number in range(1000):
        concurrency.ended(number / 100, 1, busy=False)
    assert concurrency.width == 1


def test_a_width_is_judged_only_when_all_its_connections_are_open() -> None:
    concurrency = Concurrency(20)
    play(concurrency, {1: 100.0, 2: 200.0, 4: 400.0, 8: 800.0, 16: 1600.0, 20: 2000.0}, 0.05)
    width = concurrency.width
    for number in range(1000):
        concurrency.ended(1 + number, width - 1, busy=True)
    assert concurrency.width == width


def test_a_relay_that_pushes_back_gets_half_at_once_and_no_more_for_a_minute() -> None:
    latency = {width: width / 0.02 for width in (1, 2, 4, 5, 8, 10, 16, 20)}
    concurrency = Concurrency(20)
    play(concurrency, latency, 2.0)
    assert concurrency.width == 20
    assert concurrency.pushed_back(2.0, 20)
    assert not concurrency.pushed_back(2.1, 20), "several connections that are told the same at once count once"
    assert concurrency.width == 10
    assert concurrency.pushed_back(4.0, 10)
    assert play(concurrency, latency, CROWDED - 1, 4.0) == [5]
    assert play(concurrency, latency, 3.0, 4.0 + CROWDED) == [5, 10, 20]


def test_a_relay_that_refuses_one_more_keeps_those_that_it_has() -> None:
    concurrency = Concurrency(20)
    play(concurrency, {1: 50.0, 2: 100.0, 4: 200.0, 8: 400.0, 16: 800.0, 20: 1000.0}, 1.0)
    assert concurrency.refused(1.0, 3)
    assert concurrency.width == 3
    assert not concurrency.refused(1.0, 3)


@pytest.mark.parametrize("limit", [1, 3, 7])
def test_width_is_never_above_the_limit_nor_below_one(limit: int) -> None:
    concurrency = Concurrency(limit)
    carries = {width: width * 50.0 for width in range(1, 9)}
    assert max(play(concurrency, carries, 3.0)) == limit
    for number in range(5):
        concurrency.pushed_back(10.0 + 2 * number, concurrency.width)
    assert concurrency.width == 1


def test_a_relay_that_hangs_gets_more_connections_unmeasured_unless_it_has_pushed_back() -> None:
    concurrency = Concurrency(5)
    widths = []
    for now in range(4):
        concurrency.stalled(float(now))
        widths.append(concurrency.width)
    assert widths == [2, 4, 5, 5]
    concurrency.pushed_back(10.0, 5)
    concurrency.stalled(12.0)
    assert concurrency.width == 2
