"""Which parts hang, by a clock that the test sets."""

import pytest

from spoold.agent.pulse import Pulse


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_part_at_rest_never_hangs_and_one_in_a_round_does_after_its_time() -> None:
    clock = Clock()
    pulse = Pulse(clock, 60)
    with pulse.round("scan"):
        clock.now += 60
        assert pulse.stuck() == {}
        clock.now += 1
        assert pulse.stuck() == {"scan": 61}
    clock.now += 10_000
    assert pulse.stuck() == {}


def test_round_that_ends_by_an_error_is_over() -> None:
    clock = Clock()
    pulse = Pulse(clock, 60)
    with pytest.raises(OSError), pulse.round("control"):
        raise OSError
    clock.now += 1000
    assert pulse.stuck() == {}


def test_part_that_tells_itself_has_its_own_patience() -> None:
    clock = Clock()
    pulse = Pulse(clock, 60)
    since: list[float | None] = [None]
    pulse.watch("projector", lambda: since[0], times=10)
    clock.now += 10_000
    assert pulse.stuck() == {}
    since[0] = clock.now
    clock.now += 599
    assert pulse.stuck() == {}
    clock.now += 2
    assert pulse.stuck() == {"projector": 601}
