"""Connections: used again and again, several at a time, closed by either side, and what a relay says made harmless."""

import re
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.servers.agent import Agent, wait_for
from tests.servers.relay import EXTENSIONS, Delay, Drop, Event, Relay, Reply, Rule

EVIL = "\x1b[2J\x1b]0;owned\x07\x08\x00\x9b31m \u202e J\u00fcrgen \xff"


def everybody(count: int) -> list[str]:
    return [f"user{number}@one.example" for number in range(count)]


@pytest.mark.parametrize("extensions", [EXTENSIONS, EXTENSIONS[1:]], ids=["pipelining", "one by one"])
def test_one_connection_carries_all_messages(tmp_path: Path, extensions: tuple[str, ...]) -> None:
    options = {"connections": 1, "recipients_per_message": 1}
    with Relay(extensions=extensions) as relay, Agent(tmp_path, relay.port, relay=options) as agent:
        agent.start().drop("many", everybody(200))
        agent.wait_state("many", "finished")
        assert relay.connections == 1
        assert Counter(relay.recipients) == Counter(everybody(200))
        assert sum(line.text.startswith("EHLO") for line in relay.commands) == 1
        assert relay.violations == []


def test_as_many_connections_as_allowed_are_open_and_never_more(tmp_path: Path) -> None:
    options = {"connections": 7, "recipients_per_message": 1}
    with (
        Relay(rules=[Rule("DOT", Delay(0.1))]) as relay,
        Agent(tmp_path, relay.port, relay=options) as agent,
    ):
        agent.start().drop("many", everybody(100))
        agent.wait_state("many", "finished")
        assert relay.ledger.peak == 7
        assert relay.connections == 7
        assert Counter(relay.recipients) == Counter(everybody(100))
        assert agent.stop() == 0
        assert relay.ledger.open == 0
        assert sum(line.text == "QUIT" for line in relay.commands) == 7


def test_a_relay_that_allows_fewer_connections_is_asked_for_no_more(tmp_path: Path) -> None:
    relay = Relay(rules=[Rule("DOT", Delay(0.05))])

    def crowded(_: Event) -> Reply | None:
        return Reply("421 4.7.0 too many connections from you") if relay.ledger.open > 3 else None

    relay.rules.append(Rule("connect", crowded))
    options = {"connections": 10, "recipients_per_message": 1}
    with relay, Agent(tmp_path, relay.port, relay=options) as agent:
        agent.start().drop("many", everybody(100))
        status = agent.wait_state("many", "finished")
        assert status["relay_error"] is None
        assert Counter(relay.recipients) == Counter(everybody(100))
        assert agent.events("relay.down") == []
        assert agent.events("relay.connections")
        assert {row["attempts"] for row in agent.recipients("many")} == {"1"}
        assert relay.connections < 30


@pytest.mark.parametrize(
    ("farewell", "extensions"),
    [
        (Drop(), EXTENSIONS[1:]),
        (Drop(reset=True), EXTENSIONS),
        (Reply("421 4.4.2 idle too long"), EXTENSIONS),
    ],
    ids=["close", "reset", "421"],
)
def test_a_relay_that_takes_one_message_a_connection_costs_no_attempt(
    tmp_path: Path, farewell: Drop | Reply, extensions: tuple[str, ...]
) -> None:
    # It closes at the second MAIL of each connection: to the agent, an idle connection that was closed.
    mails: Counter[int] = Counter()

    def second(event: Event) -> Drop | Reply | None:
        mails[event.connection] += 1
        return farewell if mails[event.connection] == 2 else None

    options = {"connections": 2, "recipients_per_message": 1}
    with (
        Relay(rules=[Rule("MAIL", second)], extensions=extensions) as relay,
        Agent(tmp_path, relay.port, relay=options) as agent,
    ):
        to = everybody(6 if isinstance(farewell, Drop) else 2)
        agent.start().drop("many", to)
        agent.wait_state("many", "finished", timeout=30)
        assert Counter(relay.recipients) == Counter(to)
        assert {(row["state"], row["attempts"]) for row in agent.recipients("many")} == {("sent", "1")}
        assert len(agent.attempts("many")) == len(to)
        assert relay.violations == []


def test_an_idle_connection_is_used_by_the_next_job_and_left_after_a_while(tmp_path: Path) -> None:
    with Relay() as relay, Agent(tmp_path, relay.port, relay={"connections": 1}) as agent:
        agent.start()
        for number in range(3):
            agent.drop(f"job-{number}", [f"user{number}@one.example"])
            agent.wait_state(f"job-{number}", "finished")
        assert relay.connections == 1
        # Ten seconds without work, then QUIT: relays do not like idle clients.
        relay.wait_for(lambda relay: relay.ledger.open == 0, timeout=15)
        assert relay.commands[-1].text == "QUIT"
        idle = relay.commands[-1].at - relay.accepted[-1].at
        assert 8 < idle < 14


def test_relay_restarted_between_two_jobs_costs_no_attempt_and_no_outage(tmp_path: Path) -> None:
    with Relay() as relay, Agent(tmp_path, relay.port, relay={"connections": 3}) as agent:
        agent.start().drop("first", everybody(9))
        agent.wait_state("first", "finished")
        relay.stop(reset=True)
        relay.start()
        agent.drop("second", everybody(1))
        agent.wait_state("second", "finished")
        assert [row["attempts"] for row in agent.recipients("second")] == ["1"]
        assert agent.events("relay.down") == []


def test_what_a_relay_says_is_harmless_in_every_report_and_in_the_log(tmp_path: Path) -> None:
    def evil(code: str) -> Reply:
        return Reply(f"{code}-{code[0]}.1.1 {EVIL}\n{code} {code[0]}.1.1 {EVIL} end")

    rules = [
        Rule("RCPT", evil("550"), match="bob"),
        Rule("RCPT", evil("450"), match="cid"),
        Rule("connect", evil("421"), times=1),
        Rule("DOT", evil("250")),
    ]
    with Relay(rules=rules) as relay, Agent(tmp_path, relay.port, relay={"connections": 1}) as agent:
        agent.start().drop("evil", ["ada@one.example", "bob@one.example", "cid@one.example"])
        seen: set[str] = set()

        def settled() -> bool:
            status = agent.status("evil")
            if status and status["relay_error"]:
                seen.add(status["relay_error"])
            return bool(status and status["counts"]["sent"] and status["state"] == "waiting")

        wait_for(settled)
        assert seen
        assert all(text.isprintable() for text in seen)
        # The table lags behind the status a little.
        wait_for(lambda: [row["state"] for row in agent.recipients("evil")] == ["sent", "failed", "deferred"])
        rows = agent.recipients("evil")
        for row in rows:
            assert row["diagnostic"].isprintable()
            assert "J\u00fcrgen" in row["diagnostic"]
            assert row["diagnostic"].endswith("end")
        shown = agent.command("status", "evil")
        texts = [
            (agent.report("evil", name) or b"").decode()
            for name in ("status.txt", "status.json", "statistics.json", "recipients.csv", "attempts.jsonl")
        ]
        texts += [shown.stdout, agent.log_file.read_text()]
        assert all(texts)
        for text in [*texts, shown.stderr]:
            assert re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e]", text) is None


def test_a_relay_that_talks_without_end_is_left(tmp_path: Path) -> None:
    endless = "\n".join(["250-more"] * 5000 + ["250 end"])
    rules = [Rule("RCPT", Reply(endless), times=1)]
    config = {"retry": {"every": "2s", "for": "1h"}}
    with Relay(rules=rules) as relay, Agent(tmp_path, relay.port, config=config) as agent:
        begun = time.monotonic()
        agent.start().drop("talk", ["ada@one.example"])
        agent.wait_state("talk", "finished")
        first, second = agent.attempts("talk")
        assert (first["result"], first["dsn_status"]) == ("deferred", "4.4.2")
        assert "garbage" in first["diagnostic"]
        assert second["result"] == "sent"
        assert time.monotonic() - begun < 15
