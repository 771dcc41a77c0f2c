"""Rates, windows, priorities and edits with the real process: what the relay sees, and when."""

import json
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from tests.servers.agent import Agent, wait_for
from tests.servers.relay import Delay, Relay, Rule


def arrivals(relay: Relay, domain: str = "") -> list[float]:
    """When each recipient of the domain was accepted, in order; seconds of a monotonic clock."""
    return sorted(mail.at for mail in relay.accepted for to in mail.recipients if to.endswith(domain))


def most_in(times: list[float], span: float) -> int:
    """The most of `times` in any span of so many seconds."""
    return max(sum(begin <= at < begin + span for at in times) for begin in times)


def edit(agent: Agent, name: str, **keys: object) -> None:
    folder = agent.find(name)
    assert folder is not None
    manifest = json.loads((folder / "job.yaml").read_text())
    (folder / "job.yaml").write_text(json.dumps({**manifest, **keys}))


@pytest.mark.parametrize("place", ["job", "relay", "agent"])
def test_rate_is_kept_evenly_whoever_sets_it(agent: Agent, relay: Relay, place: str) -> None:
    if place == "relay":
        agent.configure(relay.port, relay={"rate": "20/s"})
    elif place == "agent":
        agent.configure(relay.port, config={"rate": "20/s"})
    agent.start()
    manifest = {"rate": "20/s"} if place == "job" else {}
    agent.drop("paced", [f"user{number}@one.example" for number in range(61)], manifest=manifest)
    agent.wait_state("paced", "finished")
    times = arrivals(relay)
    assert len(times) == 61
    # Never faster, on average or for a second; slower by what a busy machine loses.
    assert 3.0 * 0.95 <= times[-1] - times[0] < 3.0 * 2
    assert most_in(times, 1.0) <= 21 + 3  # some more for what the relay's clock sees late


def test_throttled_domain_does_not_hold_up_the_others(agent: Agent, relay: Relay) -> None:
    agent.configure(relay.port, relay={"recipients_per_message": 1})
    agent.start()
    slow = [f"slow{number}@gmail.com" for number in range(400)]
    fast = [f"fast{number}@one.example" for number in range(50)]
    sub = ["sub@mail.gmail.com"]
    agent.drop("mixed", [*slow, *fast, *sub], manifest={"domain_rates": {"gmail.com": "4/s"}})
    wait_for(lambda: len(arrivals(relay, "@one.example")) == 50 and len(arrivals(relay, "@mail.gmail.com")) == 1)
    assert len(arrivals(relay, "@gmail.com")) < 40, "the others did not wait for the throttled ones"
    count = len(arrivals(relay, "@gmail.com"))
    wait_for(lambda: len(arrivals(relay, "@gmail.com")) >= count + 8)
    times = arrivals(relay, "@gmail.com")
    assert most_in(times, 1.0) <= 5 + 1
    status = agent.status("mixed")
    assert status is not None
    assert status["state"] == "sending"


def test_throttled_job_does_not_hold_up_another(agent: Agent, relay: Relay) -> None:
    agent.configure(relay.port, relay={"connections": 1})
    agent.start()
    agent.drop("slow", [f"slow{number}@one.example" for number in range(100)], manifest={"rate": "2/s"})
    wait_for(lambda: relay.accepted)
    agent.drop("quick", [f"quick{number}@two.example" for number in range(100)])
    agent.wait_state("quick", "finished", timeout=5)


def test_restart_gives_no_second_burst(agent: Agent, relay: Relay) -> None:
    agent.configure(relay.port, relay={"recipients_per_message": 1})
    agent.start()
    agent.drop("paced", [f"user{number}@one.example" for number in range(10)], manifest={"rate": "1/4s"})
    wait_for(lambda: relay.accepted)
    agent.kill()
    agent.start()
    wait_for(lambda: len(relay.accepted) == 2)
    first, second = arrivals(relay)
    assert second - first >= 3.8


def test_small_job_is_through_while_a_large_one_is_being_sent(agent: Agent, relay: Relay) -> None:
    relay.rules.append(Rule("DOT", Delay(0.02)))
    agent.configure(relay.port, relay={"recipients_per_message": 1, "connections": 4})
    agent.start()
    agent.drop("large", [f"user{number}@one.example" for number in range(3000)])
    wait_for(lambda: len(relay.accepted) > 50)
    agent.drop("small", [f"user{number}@two.example" for number in range(10)])
    agent.wait_state("small", "finished", timeout=5)
    status = agent.status("large")
    assert status is not None
    assert status["counts"]["queued"] > 1000


def test_high_priority_goes_before_low_without_starving_it(agent: Agent, relay: Relay) -> None:
    relay.rules.append(Rule("DOT", Delay(0.01)))
    agent.configure(relay.port, relay={"recipients_per_message": 1, "connections": 1})
    agent.start()
    for name, priority in (("low", "low"), ("high", "high")):
        agent.drop(name, [f"u{number}@{name}.example" for number in range(120)], manifest={"priority": priority})
    agent.wait_state("high", "finished")
    during = [mail for mail in relay.accepted if mail.at <= arrivals(relay, "@high.example")[-1]]
    low = sum("@low.example" in to for mail in during for to in mail.recipients)
    assert 0 < low < 60
    agent.wait_state("low", "finished")


def test_send_after_is_not_one_second_early_and_starts_within_one(agent: Agent, relay: Relay) -> None:
    agent.start()
    at = datetime.now(UTC) + timedelta(seconds=3)
    agent.drop("later", ["ada@one.example"], manifest={"send_after": at.isoformat(timespec="milliseconds")})
    status = agent.wait_state("later", "scheduled", timeout=2)
    assert datetime.fromisoformat(status["next_at"]).timestamp() == pytest.approx(at.timestamp(), abs=0.01)
    wait_for(lambda: relay.accepted)
    assert 0 <= datetime.now(UTC).timestamp() - at.timestamp() < 1


def test_send_after_without_an_offset_is_taken_in_the_jobs_zone_and_the_report_says_so(
    agent: Agent, relay: Relay
) -> None:
    agent.start()
    manifest = {"send_after": "2030-07-01 09:00", "timezone": "Europe/Vienna"}
    agent.drop("later", ["ada@one.example"], manifest=manifest)
    status = agent.wait_state("later", "scheduled")
    assert status["next_at"] == "2030-07-01T09:00:00.000+02:00"
    assert any("Europe/Vienna" in warning for warning in status["warnings"])


def minute(offset: int) -> str:
    return (datetime.now(UTC) + timedelta(minutes=offset)).strftime("%H:%M")


def test_closed_window_waits_and_an_edit_opens_it(agent: Agent, relay: Relay) -> None:
    agent.start()
    agent.drop("night", ["ada@one.example"], manifest={"windows": [f"{minute(60)}-{minute(120)}"], "timezone": "UTC"})
    status = agent.wait_state("night", "waiting")
    assert status["reason"] == "window"
    assert status["next_at"] is not None
    assert relay.accepted == []
    edit(agent, "night", windows=[])
    agent.wait_state("night", "finished", timeout=5)
    assert agent.events("job.edited")


def test_edit_of_the_rate_takes_effect_within_two_seconds(agent: Agent, relay: Relay) -> None:
    agent.configure(relay.port, relay={"recipients_per_message": 1})
    agent.start()
    agent.drop("paced", [f"user{number}@one.example" for number in range(40)], manifest={"rate": "1/h"})
    wait_for(lambda: relay.accepted)
    edit(agent, "paced", rate="100/s")
    begun = time.monotonic()
    agent.wait_state("paced", "finished", timeout=5)
    assert time.monotonic() - begun < 4


def test_wrong_edit_keeps_the_old_timing_and_the_report_says_why(agent: Agent, relay: Relay) -> None:
    agent.configure(relay.port, relay={"recipients_per_message": 1})
    agent.start()
    agent.drop("paced", ["a@one.example", "b@one.example"], manifest={"rate": "1/h"})
    wait_for(lambda: relay.accepted)
    edit(agent, "paced", rate="10")
    warning = wait_for(
        lambda: [text for text in (agent.status("paced") or {"warnings": ()})["warnings"] if "old timing stays" in text]
    )
    assert "without a time, such as 10/h" in warning[0]
    assert "job.yaml:" in warning[0]
    assert len(relay.accepted) == 1
    edit(agent, "paced", rate="100/s")
    status = agent.wait_state("paced", "finished")
    assert not [text for text in status["warnings"] if "old timing" in text]


def test_edit_of_more_than_the_timing_changes_only_the_timing(agent: Agent, relay: Relay) -> None:
    agent.start()
    agent.drop("held", ["ada@one.example"], manifest={"send_after": "2030-01-01T00:00:00Z"})
    agent.wait_state("held", "scheduled")
    edit(agent, "held", send_after="2020-01-01T00:00:00Z", sender="evil@example.com")
    status = agent.wait_state("held", "finished")
    assert any("only that can change" in warning for warning in status["warnings"])
    assert relay.accepted[0].mail_from == "news@example.com"


def test_edit_while_no_agent_runs_counts_at_the_next_start(agent: Agent, relay: Relay) -> None:
    agent.start()
    agent.drop("later", ["ada@one.example"], manifest={"send_after": "2030-01-01T00:00:00Z"})
    agent.wait_state("later", "scheduled")
    agent.stop()
    edit(agent, "later", send_after="2020-01-01T00:00:00Z")
    agent.start()
    agent.wait_state("later", "finished")


def test_expiry_ends_what_never_got_a_window(agent: Agent, relay: Relay) -> None:
    agent.start()
    manifest = {"windows": [f"{minute(60)}-{minute(120)}"], "timezone": "UTC", "expires": "3s"}
    agent.drop("night", ["ada@one.example", "bob@one.example"], manifest=manifest)
    agent.wait_state("night", "waiting")
    status = agent.wait_state("night", "finished")
    assert status["counts"]["expired"] == 2
    assert {row["dsn_status"] for row in agent.recipients("night")} == {"5.4.7"}
    assert relay.accepted == []


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"windows": ["25:00-26:00"]}, "between 00:00 and 23:59"),
        ({"windows": ["Mon-Foo 10:00-12:00"]}, "Mon-Fri 18:00-08:00"),
        ({"windows": ["18:00-18:00"]}, "a window such as"),
        ({"timezone": "Europe/Wien"}, "did you mean Europe/Vienna"),
        ({"rate": 0}, "a rate such as"),
        ({"rate": 10}, "a rate such as"),
        ({"rate": "-5/h"}, "a rate such as"),
        ({"expires": "2026-01-01T00:00:00Z", "send_after": "2026-06-01T00:00:00Z"}, "after send_after"),
        ({"expires": "1h", "send_after": "2030-01-01T00:00:00Z"}, "never sends"),
    ],
)
def test_wrong_timing_rejects_the_job_with_the_right_form(
    agent: Agent, relay: Relay, keys: dict[str, object], words: str
) -> None:
    agent.start()
    agent.drop("wrong", ["ada@one.example"], manifest=keys)
    status = agent.wait_state("wrong", "rejected")
    assert len(status["errors"]) == 1
    assert words in status["errors"][0]
    assert relay.accepted == []


def test_windows_of_job_and_agent_that_never_meet_are_an_error(agent: Agent, relay: Relay) -> None:
    agent.configure(relay.port, config={"windows": ["Mon 08:00-12:00"]})
    agent.start()
    agent.drop("never", ["ada@one.example"], manifest={"windows": ["Tue 08:00-12:00"]})
    status = agent.wait_state("never", "rejected")
    assert "never sends" in status["errors"][0]


def test_intervals_are_even_not_bursts(agent: Agent, relay: Relay) -> None:
    agent.start()
    agent.drop("even", [f"user{number}@one.example" for number in range(16)], manifest={"rate": "5/s"})
    agent.wait_state("even", "finished")
    gaps = [later - earlier for earlier, later in pairwise(arrivals(relay))]
    assert all(0.08 < gap < 0.35 for gap in gaps), gaps
