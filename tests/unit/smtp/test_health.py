"""When a relay rests, and for how long. Moments are monotonic seconds."""

import pytest

from spoold.core.fault import Fault, FaultKind
from spoold.smtp.health import LONGEST_REST, STRIKES, Health

REFUSED = Fault(FaultKind.CONNECT, "127.0.0.1:25: cannot connect: Connection refused")


def test_each_failure_doubles_the_rest_up_to_the_longest() -> None:
    health, now, rests = Health(), 1000.0, []
    for _ in range(10):
        health.failed(REFUSED, now)
        rests.append(health.until - now)
        now = health.until
    assert rests == [2, 4, 8, 16, 32, 64, 128, 256, LONGEST_REST, LONGEST_REST]


def test_connections_that_fail_together_count_once() -> None:
    health = Health()
    assert health.failed(REFUSED, 0.0)
    until = health.until
    for moment in (0.0, 0.5, 1.9):
        assert not health.failed(REFUSED, moment)
    assert health.until == until


def test_the_same_fault_again_is_no_news_but_another_one_is() -> None:
    health = Health()
    assert health.failed(REFUSED, 0.0)
    assert not health.failed(REFUSED, 2.0)
    assert health.failed(Fault(FaultKind.DNS, "no such host"), 6.0)


def test_a_relay_that_lets_us_in_again_is_up_at_once_and_its_next_rest_is_short() -> None:
    health = Health()
    health.failed(REFUSED, 0.0)
    health.failed(REFUSED, 2.0)
    assert not health.up
    assert health.connected()
    assert health.up
    assert not health.connected()
    health.failed(REFUSED, 100.0)
    assert health.until == 102.0


@pytest.mark.parametrize("kind", [FaultKind.BUSY, FaultKind.FULL, FaultKind.UNSTABLE])
def test_a_relay_that_lets_in_but_takes_nothing_rests_longer_each_time(kind: FaultKind) -> None:
    health, now, rests = Health(), 0.0, []
    for _ in range(4):
        health.failed(Fault(kind, "no room"), now)
        rests.append(health.until - now)
        now = health.until
        health.connected()
    assert rests == [2, 4, 8, 16]
    health.worked()
    health.failed(Fault(kind, "no room"), now)
    assert health.until - now == 2


def test_only_transactions_that_break_in_a_row_are_the_relays_fault() -> None:
    health = Health()
    for _ in range(STRIKES - 1):
        assert not health.dropped("closed", 0.0)
    health.worked()
    for _ in range(STRIKES - 1):
        assert not health.dropped("closed", 0.0)
    assert health.up
    assert health.dropped("closed", 0.0)
    assert health.fault == Fault(FaultKind.UNSTABLE, "closed")
    assert health.until == 2.0
