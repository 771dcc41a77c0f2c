"""The recipients read ahead: who shares a transaction, and that a throttled domain holds up nobody."""

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from spoold.core.schedule.rate import Rate
from spoold.core.state import RecipientState
from spoold.delivery.backlog import LANE, Backlog
from spoold.delivery.limiter import Limiter, Limits
from spoold.storage.record import DueRecipient, Message

NOW = 1_800_000_000.0
MESSAGES = [Message(number, f"{number}.eml", b"", 100, False, False, b"") for number in range(3)]


def recipient(number: int, domain: str = "one.example", message: int = 0, *, smtputf8: bool = False) -> DueRecipient:
    address = f"user{number}@{domain}"
    return DueRecipient(
        number, address, domain, smtputf8, MESSAGES[message], RecipientState.QUEUED, 0, None, NOW - 100 + number / 1000
    )


def picked(backlog: Backlog, most: int, now: float, limiter: Limiter) -> list[int]:
    claim = backlog.pick_limited(
        most,
        now,
        lambda domain: limiter.permit(limiter.of_domain(1, {}, domain), now),
        lambda domain: limiter.advance(limiter.of_domain(1, {}, domain), now),
    )
    return [found.id for found in claim]


def test_only_recipients_of_one_message_share_a_transaction() -> None:
    backlog = Backlog()
    backlog.extend([recipient(1), recipient(2), recipient(3, message=1), recipient(4)])
    assert [found.id for found in backlog.pick(10)] == [1, 2]
    assert [found.id for found in backlog.pick(10)] == [3]
    assert [found.id for found in backlog.pick(10)] == [4]
    assert len(backlog) == 0


def test_who_needs_smtputf8_does_not_share_with_who_does_not() -> None:
    backlog = Backlog()
    backlog.extend([recipient(1), recipient(2, smtputf8=True), recipient(3, smtputf8=True)])
    assert [found.id for found in backlog.pick(10)] == [1]
    assert [found.id for found in backlog.pick(10)] == [2, 3]


def test_what_is_put_back_comes_first_again() -> None:
    backlog = Backlog()
    backlog.extend([recipient(number) for number in range(1, 6)])
    backlog.put_back(backlog.pick(3))
    assert [found.id for found in backlog.pick(10)] == [1, 2, 3, 4, 5]


def test_throttled_domain_lets_the_others_pass_and_keeps_its_own_order() -> None:
    backlog = Backlog()
    limiter = Limiter(Limits(domains={"slow.example": Rate(1, 10)}), {})
    slow = [recipient(number, "slow.example") for number in range(1, 4)]
    backlog.extend([*slow, recipient(9, "fast.example")])
    assert picked(backlog, 1, NOW, limiter) == [1]
    assert picked(backlog, 1, NOW, limiter) == [9]
    assert picked(backlog, 1, NOW, limiter) == []
    assert backlog.permits_at() == NOW + 10 - Rate(1, 10).slack
    assert picked(backlog, 1, NOW + 10, limiter) == [2]
    assert picked(backlog, 1, NOW + 20, limiter) == [3]
    assert backlog.permits_at() is None
    assert not backlog.has_lanes


def test_full_lane_leaves_the_rest_in_the_database_and_asks_for_it_later() -> None:
    backlog = Backlog()
    limiter = Limiter(Limits(domains={"slow.example": Rate(1, 1)}), {})
    backlog.extend([recipient(number, "slow.example") for number in range(1, LANE + 51)])
    backlog.extend([recipient(9999, "fast.example")])
    assert picked(backlog, 1, NOW, limiter) == [1]
    assert picked(backlog, 1, NOW, limiter) == [9999]
    assert backlog.saturated == ["slow.example"]
    assert backlog.hungry() == []
    seen = [found for second in range(1, LANE) for found in picked(backlog, 1, NOW + second, limiter)]
    assert seen == list(range(2, LANE + 1))
    [(domain, after)] = backlog.hungry()
    assert (domain, after) == ("slow.example", (recipient(LANE + 1).due_at, LANE + 1))
    assert backlog.hungry() == [], "it is asked for once"
    backlog.refill(domain, [recipient(number, "slow.example") for number in range(LANE + 2, LANE + 51)], last=None)
    rest = [found for second in range(LANE, LANE + 60) for found in picked(backlog, 1, NOW + second, limiter)]
    assert rest == list(range(LANE + 1, LANE + 51))
    assert backlog.saturated == []


def test_changed_rates_are_asked_again() -> None:
    backlog = Backlog()
    limiter = Limiter(Limits(domains={"slow.example": Rate(1, 86400)}), {})
    backlog.extend([recipient(number, "slow.example") for number in (1, 2)])
    assert picked(backlog, 1, NOW, limiter) == [1]
    assert picked(backlog, 1, NOW + 1, limiter) == []
    limiter.limits = Limits(domains={"slow.example": Rate(1, 1)})
    backlog.reconsider()
    assert picked(backlog, 1, NOW + 2, limiter) == [2]


@given(
    st.lists(
        st.tuples(st.sampled_from(["a.example", "b.example", "c.example", "free.example"]), st.integers(0, 2)),
        max_size=60,
    ),
    st.integers(1, 10),
    st.integers(1, 5),
)
def test_everybody_is_picked_once_in_the_order_of_their_domain(
    drawn: list[tuple[str, int]], most: int, seconds: int
) -> None:
    limiter = Limiter(Limits(domains={name: Rate(1, seconds) for name in ("a.example", "b.example", "c.example")}), {})
    everybody = [recipient(number, domain, message) for number, (domain, message) in enumerate(drawn, 1)]
    backlog = Backlog()
    backlog.extend(everybody)
    sent: list[tuple[float, DueRecipient]] = []
    by_id = {found.id: found for found in everybody}
    now = NOW
    while backlog:
        ids = picked(backlog, most, now, limiter)
        assert len({by_id[number].message.id for number in ids}) <= 1
        sent += [(now, by_id[number]) for number in ids]
        if not ids:
            at = backlog.permits_at()
            assert at is not None
            assert at > now
            now = at
    assert Counter(found.id for _, found in sent) == Counter(list(by_id))
    for name in ("a.example", "b.example", "c.example"):
        times = [at for at, found in sent if found.domain == name]
        ids = [found.id for _, found in sent if found.domain == name]
        assert ids == sorted(ids)
        assert all(later - earlier >= seconds - 0.2 for earlier, later in pairwise(times))
    assert all(at == NOW for at, found in sent if found.domain == "free.example")
