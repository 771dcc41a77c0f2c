"""The rates that bind: all that apply must permit, and what was used up survives."""

import pytest

from spoold.core.schedule.rate import Rate
from spoold.delivery.limiter import Limiter, Limits, room

NOW = 1_800_000_000.0


def test_strictest_of_agent_relay_and_job_decides() -> None:
    limiter = Limiter(Limits(agent=Rate(10, 1), relays={"default": Rate(1, 1)}), {})
    limits = limiter.of_relay("default") + limiter.of_job(7, Rate(1, 60))
    assert [key for key, _ in limits] == ["agent", "relay default", "job 7"]
    assert limiter.permit(limits, NOW) == NOW
    limiter.advance(limits, NOW)
    assert limiter.permit(limits, NOW) == NOW + 60 - 0.1
    assert limiter.permit(limiter.of_relay("default"), NOW) == NOW + 1 - 0.1
    assert limiter.permit(limiter.of_relay("other"), NOW) == NOW + 0.1 - 0.05


def test_domain_is_bound_by_agent_and_job_and_star_is_every_other_one() -> None:
    limiter = Limiter(Limits(domains={"gmail.com": Rate(1, 10)}), {})
    job = {"*": Rate(1, 5)}
    assert [key for key, _ in limiter.of_domain(7, job, "gmail.com")] == ["agent gmail.com", "job 7 gmail.com"]
    assert [key for key, _ in limiter.of_domain(7, job, "mail.gmail.com")] == ["job 7 mail.gmail.com"]
    assert limiter.of_domain(7, {}, "other.example") == []
    limiter.advance(limiter.of_domain(7, job, "one.example"), NOW)
    assert limiter.permit(limiter.of_domain(7, job, "two.example"), NOW) == NOW, "each other domain has its own"


def test_what_was_used_is_given_once_to_be_saved_and_restores_the_limit() -> None:
    limiter = Limiter(Limits(agent=Rate(1, 60)), {})
    limiter.advance(limiter.of_relay("default"), NOW)
    saved = limiter.unsaved(NOW)
    assert saved == [("agent", NOW + 60)]
    assert limiter.unsaved(NOW) == []
    after_restart = Limiter(Limits(agent=Rate(1, 60)), dict(saved))
    assert after_restart.permit(after_restart.of_relay("default"), NOW + 1) == NOW + 60 - 0.1


def test_group_is_as_large_as_the_tightest_rate_allows() -> None:
    assert room([], 100) == 100
    assert room([("agent", Rate(1000, 1)), ("job 1", Rate(500, 1))], 100) == 5
    assert room([("agent", Rate(36000, 3600))], 100) == 1


def test_many_domains_with_a_rate_by_the_day_are_not_gone_through_at_each_claim() -> None:
    limiter, rates = Limiter(Limits(), {}), {"*": Rate(1, 86400)}
    kept = set()
    for number in range(45_000):
        limits = limiter.of_domain(1, rates, f"d{number}.example")
        assert limiter.permit(limits, NOW) == NOW
        limiter.advance(limits, NOW)
        assert len(limiter.unsaved(NOW)) == 1
        kept.add(id(limiter._tats))
    assert len(kept) <= 4, "looked through each time that there are twice as many"
    again = limiter.of_domain(1, rates, "d0.example")
    assert limiter.permit(again, NOW) > NOW, "and nothing that still counts is forgotten"


def test_what_did_not_go_is_given_back() -> None:
    limiter = Limiter(Limits(agent=Rate(1, 60)), {})
    limits = limiter.of_relay("default")
    limiter.advance(limits, NOW)
    limiter.give_back(limits, 1)
    assert limiter.permit(limits, NOW) == NOW
    assert limiter.unsaved(NOW) == [("agent", NOW)]


def test_clock_that_was_set_back_makes_the_next_one_neither_later_nor_sooner() -> None:
    limiter = Limiter(Limits(agent=Rate(1, 60)), {})
    limits = limiter.of_relay("default")
    limiter.advance(limits, NOW)
    limiter.shift(-86400.0)
    assert limiter.permit(limits, NOW - 86400 + 10) == pytest.approx(NOW - 86400 + 60 - 0.1)
