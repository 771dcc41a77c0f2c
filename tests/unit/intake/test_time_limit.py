"""The time that one upload may take: counted only while something is done for it."""

import pytest

from spoold.intake.time_limit import OvertimeError, TimeLimit


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_passes_between_the_steps_is_not_counted() -> None:
    clock = Clock()
    time_limit = TimeLimit(clock)
    for _ in range(3):
        with time_limit.within(3600.0):
            clock.now += 1100.0
            time_limit.check()
        clock.now += 10_000.0
        time_limit.check()
    with time_limit.within(3600.0):
        assert time_limit.left == pytest.approx(300.0)
        clock.now += 300.0
        with pytest.raises(
            OvertimeError, match=r"^reading it took longer than 1 h \(intake\.max_time\); split the job"
        ):
            time_limit.check()


def test_items_are_given_until_the_time_is_over() -> None:
    clock = Clock()
    time_limit = TimeLimit(clock, spent=7.0)
    given: list[int] = []
    items = time_limit.over(range(10))

    def take_all() -> None:
        for item in items:
            given.append(item)
            clock.now += 1.0

    with time_limit.within(10.0), pytest.raises(OvertimeError):
        take_all()
    assert given == [0, 1, 2]
    assert list(time_limit.over("ab")) == ["a", "b"]
