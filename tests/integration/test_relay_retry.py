"""Trying again: when, how often, until when; and what cannot be known."""

import datetime
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.servers.agent import Agent, wait_for
from tests.servers.relay import DropAfterAccept, DropBeforeAccept, Relay, Reply, Rule

LATER = Reply("450 4.2.0 Greylisted, try again later")


def moment(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)


def seconds(row: dict[str, str]) -> float:
    """From the last attempt of a recipient to the next."""
    return (moment(row["next_attempt_at"]) - moment(row["last_attempt_at"])).total_seconds()


@pytest.mark.parametrize(
    ("config", "manifest", "waits"),
    [({}, {}, 3600), ({"retry": {"every": "30m", "for": "1d"}}, {}, 1800), ({}, {"retry": {"after": ["7m", "1h"]}}, 420)],
    ids=["default", "of the agent", "of the job"],
)  # fmt: skip
def test_a_deferred_recipient_is_due_again_by_its_policy_also_after_a_restart(
    tmp_path: Path, config: dict[str, Any], manifest: dict[str, Any], waits: float
) -> None:
    with Relay(rules=[Rule("RCPT", LATER, match="bob")]) as relay, Agent(tmp_path, relay.port, config=config) as agent:
        agent.start().drop("slow", ["ada@one.example", "bob@one.example"], manifest=manifest)
        status = agent.wait_state("slow", "waiting")
        _, bob = agent.recipients("slow")
        assert (bob["state"], bob["dsn_action"], bob["attempts"]) == ("deferred", "delayed", "1")
        assert seconds(bob) == pytest.approx(waits, abs=1.5)
        assert status["reason"] == "retry"
        assert status["next_at"] is not None
        assert abs((moment(status["next_at"]) - moment(bob["next_attempt_at"])).total_seconds()) < 1.5
        agent.kill()
        agent.start()
        again = agent.wait_state("slow", "waiting")
        assert again["next_at"] == status["next_at"]
        assert len(relay.accepted) == 1
        # RETRY does not wait for it.
        relay.rules.clear()
        assert agent.command("retry", "slow").returncode == 0
        agent.wait_state("slow", "finished")
        assert Counter(relay.recipients) == Counter(["ada@one.example", "bob@one.example"])
        assert [row["attempts"] for row in agent.recipients("slow")] == ["1", "2"]


def test_delays_of_a_list_are_kept_and_the_end_is_5_4_7_with_the_last_answer(tmp_path: Path) -> None:
    config = {"retry": {"after": ["1s", "2s"], "for": "6s"}}
    with Relay(rules=[Rule("RCPT", LATER)]) as relay, Agent(tmp_path, relay.port, config=config) as agent:
        agent.start().drop("never", ["ada@one.example"])
        status = agent.wait_state("never", "finished")
        assert status["counts"]["expired"] == status["total"] == 1
        (ada,) = agent.recipients("never")
        assert (ada["state"], ada["dsn_action"], ada["dsn_status"], ada["smtp_code"], ada["bounce_category"]) == (
            "expired",
            "failed",
            "5.4.7",
            "450",
            "message-expired",
        )
        assert "4.2.0 Greylisted" in ada["diagnostic"]
        attempts = agent.attempts("never")
        times = [moment(attempt["at"]) for attempt in attempts]
        gaps = [(after - before).total_seconds() for before, after in itertools.pairwise(times)]
        assert gaps == pytest.approx([1, 2, 2], abs=0.9)
        assert all(gap >= wish - 0.05 for gap, wish in zip(gaps, (1, 2, 2), strict=True))
        assert [attempt["result"] for attempt in attempts] == ["deferred"] * 3 + ["expired"]
        assert relay.accepted == []


def test_expires_ends_what_was_never_tried_and_what_was_deferred(tmp_path: Path) -> None:
    # The relay is down for one job, and greylists the other: both have an end.
    down = {"host": "127.0.0.1", "port": 1, "security": "none"}
    with Relay(rules=[Rule("RCPT", LATER)]) as relay:
        relays = {"default": {"host": "127.0.0.1", "port": relay.port, "security": "none"}, "down": down}
        with Agent(tmp_path, relay.port, config={"relays": relays}) as agent:
            agent.start()
            agent.drop("untried", ["ada@one.example"], manifest={"relay": "down", "expires": "4s"})
            agent.drop("deferred", ["bob@one.example"], manifest={"expires": "5s", "retry": {"every": "2s"}})
            assert agent.wait_state("untried", "waiting")["reason"] == "relay"
            for name, status in (("untried", "5.4.7"), ("deferred", "5.4.7")):
                counts = agent.wait_state(name, "finished")["counts"]
                assert counts["expired"] == 1
                (row,) = agent.recipients(name)
                assert (row["state"], row["dsn_status"], row["dsn_action"]) == ("expired", status, "failed")
            assert [row["attempts"] for row in agent.recipients("untried")] == ["0"]
            assert int(agent.recipients("deferred")[0]["attempts"]) in (2, 3)
            assert "Greylisted" in agent.recipients("deferred")[0]["diagnostic"]


@pytest.mark.parametrize(("policy", "taken"), [("resend", True), ("resend", False), ("hold", True)])
def test_what_cannot_be_known_rests_or_is_held_and_goes_out_again_on_demand_as_the_same_message(
    tmp_path: Path, policy: str, taken: bool
) -> None:
    rule = Rule("DOT", DropAfterAccept() if taken else DropBeforeAccept(), nth=2, times=1)
    options = {"connections": 1, "recipients_per_message": 2}
    with Relay(rules=[rule]) as relay, Agent(tmp_path, relay.port, relay=options) as agent:
        to = [f"user{number}@one.example" for number in range(6)]
        agent.start().drop("unsure", to, manifest={"on_uncertain": policy})
        state = "waiting" if policy == "resend" else "held"
        status = wait_for(
            lambda: (found := agent.wait_state("unsure", state)) and found["counts"]["sent"] == 4 and found
        )
        assert status["counts"]["uncertain"] == 2
        assert status["reason"] == ("retry" if policy == "resend" else "uncertain")
        rows = wait_for(
            lambda: [row for row in agent.recipients("unsure") if row["state"] == "uncertain"], what="two in the table"
        )
        assert {row["address"] for row in rows} == {"user2@one.example", "user3@one.example"}
        assert {(row["attempts"], row["dsn_status"], row["dsn_action"]) for row in rows} == {("1", "4.4.2", "")}
        if policy == "resend":
            assert {round(seconds(row) / 10) for row in rows} == {90}
        else:
            assert {row["next_attempt_at"] for row in rows} == {""}
            assert "`spoold retry --uncertain`" in (agent.report("unsure", "status.txt") or b"").decode()
        assert [event["recipients"] for event in agent.events("message.uncertain")] == [2]
        # RETRY alone means the deferred ones; these two wait for a decision.
        assert agent.command("retry", "unsure").returncode == 0
        wait_for(lambda: agent.events("job.retried"))
        assert agent.events("job.retried")[-1]["recipients"] == 0
        assert len(relay.recipients) == (6 if taken else 4)
        # Across a restart nothing changes.
        assert agent.stop() == 0
        agent.start()
        assert agent.wait_state("unsure", state)["counts"]["uncertain"] == 2
        assert agent.command("retry", "--uncertain", "unsure").returncode == 0
        agent.wait_state("unsure", "finished")
        wanted = Counter(to)
        if taken:
            wanted.update(["user2@one.example", "user3@one.example"])
        assert Counter(relay.recipients) == wanted
        assert len({mail.data for mail in relay.accepted}) == 1, "not the same bytes and Message-ID"
        assert [row["attempts"] for row in agent.recipients("unsure")] == ["1", "1", "2", "2", "1", "1"]
        assert relay.violations == []


def test_cancel_leaves_what_cannot_be_known_uncertain(tmp_path: Path) -> None:
    rules = [Rule("DOT", DropBeforeAccept(), match="ada", times=1), Rule("RCPT", LATER, match="bob")]
    options = {"connections": 1, "recipients_per_message": 1}
    with Relay(rules=rules) as relay, Agent(tmp_path, relay.port, relay=options) as agent:
        agent.start().drop("unsure", ["ada@one.example", "bob@one.example", "cid@one.example"])
        wait_for(
            lambda: (status := agent.status("unsure")) and status["counts"]["sent"] and status["state"] == "waiting"
        )
        assert agent.command("cancel", "unsure").returncode == 0
        status = agent.wait_state("unsure", "cancelled")
        assert [row["state"] for row in agent.recipients("unsure")] == ["uncertain", "cancelled", "sent"]
        assert sum(status["counts"].values()) == 3
        assert relay.recipients == ["cid@one.example"]
