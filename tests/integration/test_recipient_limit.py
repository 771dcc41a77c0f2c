"""A relay that takes so many recipients a message: the limit is learned and costs nobody anything."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.servers.agent import Agent
from tests.servers.relay import EXTENSIONS, Relay, Reply, Rule


@pytest.mark.parametrize(
    ("reply", "extensions"),
    [
        ("452 4.5.3 Too many recipients", EXTENSIONS),
        ("452 Too many recipients", EXTENSIONS),
        ("552 5.5.3 Too many recipients", EXTENSIONS),
        ("552 Too many recipients", EXTENSIONS[1:]),
        ("452 4.5.3 Too many recipients", EXTENSIONS[1:]),
    ],
)
def test_too_many_recipients_lowers_the_limit_and_costs_nothing(
    reply: str, extensions: tuple[str, ...], tmp_path: Path
) -> None:
    taken: Counter[int] = Counter()

    def third(event: Any) -> Reply | None:
        taken[event.connection] += 1
        return Reply(reply) if taken[event.connection] > 7 else None

    def again(event: Any) -> None:
        taken[event.connection] = 0

    relay = Relay(rules=[Rule("MAIL", again), Rule("RCPT", third)], extensions=extensions)
    to = [f"user{number}@one.example" for number in range(40)]
    with relay, Agent(tmp_path, relay.port, relay={"connections": 1, "recipients_per_message": 25}) as agent:
        agent.start().drop("many", to)
        status = agent.wait_state("many", "finished")
        assert status["counts"]["sent"] == 40
        assert Counter(relay.recipients) == Counter(to)
        sizes = [len(mail.recipients) for mail in relay.accepted]
        # Those that were put back by one transaction may be on their way before those of the next are back.
        assert sizes[0] == max(sizes) == 7
        assert len(sizes) <= 8
        # The first transaction asked for 25, as did the one that was in line behind it; after that the limit is known.
        rcpts = sum(line.text.startswith("RCPT") for line in relay.commands)
        assert rcpts == (25 + 15 + 40 - 2 * 7 if "PIPELINING" in extensions else 25 + 40 - 7)
        assert {row["attempts"] for row in agent.recipients("many")} == {"1"}
        assert [event["recipients"] for event in agent.events("relay.limit")] == [7]
        assert relay.violations == []


def test_452_4_2_2_defers_that_mailbox_alone(agent: Agent, relay: Relay) -> None:
    relay.rules.append(Rule("RCPT", Reply("452 4.2.2 Mailbox full"), match="bob"))
    agent.start().drop("full", ["ada@one.example", "bob@one.example", "cid@one.example"])
    status = agent.wait_state("full", "waiting")
    assert (status["reason"], status["relay_error"]) == ("retry", None)
    rows = {row["address"]: row for row in agent.recipients("full")}
    bob = rows["bob@one.example"]
    assert (bob["state"], bob["dsn_action"], bob["dsn_status"], bob["smtp_code"], bob["bounce_category"]) == (
        "deferred",
        "delayed",
        "4.2.2",
        "452",
        "quota-issues",
    )
    assert [row["state"] for row in rows.values()] == ["sent", "deferred", "sent"]
    assert agent.events("relay.limit") == []
    assert agent.events("relay.down") == []
