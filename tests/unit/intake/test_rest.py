"""A clock that is set makes no file look older than it is."""

from spoold.intake.rest import Rest

NOW = 1_800_000_000.0


class Clocks:
    def __init__(self) -> None:
        self.passed = 0.0
        self.offset = NOW

    def rest(self) -> Rest:
        return Rest(lambda: self.passed + self.offset, lambda: self.passed)


def test_file_is_at_rest_since_its_last_change() -> None:
    clocks = Clocks()
    rest = clocks.rest()
    assert rest.since(NOW - 40) == 40, "what was there before is believed"
    clocks.passed = 5
    assert rest.since(NOW + 2) == 3


def test_clock_that_was_set_forward_lets_nothing_rest_for_longer_than_since_then() -> None:
    clocks = Clocks()
    rest = clocks.rest()
    clocks.passed, clocks.offset = 10, NOW + 3600
    assert rest.since(NOW + 9) == 0
    clocks.passed = 14
    assert rest.since(NOW + 9) == 4
    assert rest.since(NOW + 3600 + 13) == 1, "one of after the step counts by itself"


def test_clock_that_was_set_back_lets_nothing_rest_at_all_before_it_is_reached_again() -> None:
    clocks = Clocks()
    rest = clocks.rest()
    clocks.offset = NOW - 3600
    assert rest.since(NOW - 1) == 0
