"""The agent's own life: start, stop, reload, many jobs side by side, and other agents beside it."""

import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.servers.agent import Agent, wait_for
from tests.servers.audit import check_log
from tests.servers.relay import Delay, Hang, Relay, Reply, Rule
from tests.servers.upload import addresses


def begun(relay: Relay) -> int:
    return sum(line.text.upper().startswith("MAIL") for line in tuple(relay.commands))


# --- stop ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_agent_after_open_transactions_and_the_next_one_goes_on(
    agent: Agent, relay: Relay, number: signal.Signals
) -> None:
    relay.rules.append(Rule("DOT", Delay(0.8)))
    agent.configure(relay.port, relay={"connections": 3, "recipients_per_message": 1})
    agent.start()
    agent.drop("job", addresses(12))
    relay.wait_for(lambda _: begun(relay) >= 3 and relay.bodies)
    told = time.monotonic()
    assert agent.stop(number) == 0
    # Those next in line had said MAIL; their messages do not follow.
    assert 1 <= len(relay.accepted) <= begun(relay) <= len(relay.accepted) + 3
    assert max(line.at for line in relay.commands if line.text.upper().startswith("MAIL")) <= told + 0.5
    count = check_log(agent)
    assert (count["agent.stopping"], count["agent.stopped"], count["message.uncertain"]) == (1, 1, 0)
    assert agent.events("agent.stopping")[0]["signal"] == number.name
    status, rows = agent.status("job"), agent.recipients("job")
    assert status is not None
    assert status["counts"]["sent"] == len(relay.accepted)
    assert status["counts"]["sent"] + status["counts"]["queued"] == status["total"] == 12
    assert Counter(row["state"] for row in rows) == {
        state: count for state, count in status["counts"].items() if count
    }  # fmt: skip
    assert (agent.state() or {})["agent"]["state"] == "stopped"
    relay.rules.clear()
    agent.start()
    assert agent.wait_state("job", "finished")["counts"]["sent"] == 12
    assert sorted(relay.recipients) == sorted(addresses(12))
    assert relay.violations == []
    assert agent.events("agent.recovered") == []


def test_stop_while_the_relay_does_not_answer_waits_for_the_reply_to_the_final_dot(agent: Agent, relay: Relay) -> None:
    relay.rules.append(Rule("DOT", Hang()))
    agent.start()
    agent.drop("job")
    relay.wait_for(lambda _: relay.bodies)
    assert agent.process is not None
    agent.process.send_signal(signal.SIGTERM)
    wait_for(lambda: agent.events("agent.stopping"))
    # A second one changes nothing.
    agent.process.send_signal(signal.SIGTERM)
    wait_for(lambda: len(agent.events("agent.stopping")) == 2)
    assert agent.process.poll() is None
    relay.release()
    assert agent.died() == 0
    assert [mail.recipients for mail in relay.accepted] == [("ada@one.example",)]
    assert agent.status("job")["counts"]["sent"] == 1  # type: ignore[index]
    relay.rules.clear()
    agent.start()
    agent.wait_state("job", "finished")
    assert len(relay.accepted) == begun(relay) == 1


# --- reload -------------------------------------------------------------------------------------------------------


def test_reload_takes_a_new_relay_and_an_invalid_file_keeps_it(agent: Agent, relay: Relay) -> None:
    agent.start()
    agent.drop("first")
    agent.wait_state("first", "finished")
    process = agent.process
    assert process is not None
    with Relay() as other:
        agent.configure(other.port, config={"log": {"format": "json", "level": "info"}})
        process.send_signal(signal.SIGHUP)
        [reloaded] = wait_for(lambda: agent.events("agent.reloaded"))
        assert reloaded["changed"] == ["default"]
        agent.drop("second", ["bob@two.example"])
        agent.wait_state("second", "finished")
        assert (relay.recipients, other.recipients) == (["ada@one.example"], ["bob@two.example"])
        # The level is a part of it: a message that is sent is a matter of `debug`.
        assert [event["job"] for event in agent.events("message.sent")] == ["first"]

        good = agent.config.read_text()
        agent.config.write_text("spool: x\nrelays: {default: {host: h, prot: 1}}\nlog: {level: loud}\ncolour: blue\n")
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: len(agent.events("agent.reload_failed")) >= 3)
        problems = agent.events("agent.reload_failed")
        assert [event["problem"].removeprefix(f"{agent.config}:").split(":")[0] for event in problems] == [
            "2",
            "3",
            "4",
        ]
        agent.config.write_text(good.replace(str(agent.spool), str(agent.root / "elsewhere")))
        process.send_signal(signal.SIGHUP)
        moved = wait_for(lambda: agent.events("agent.reload_failed")[3:])
        assert "spool: cannot change while the agent runs" in moved[0]["problem"]
        agent.config.unlink()
        process.send_signal(signal.SIGHUP)
        missing = wait_for(lambda: agent.events("agent.reload_failed")[4:])
        assert "cannot be read" in missing[0]["problem"]

        agent.drop("third", ["eve@three.example"])
        agent.wait_state("third", "finished")
        assert other.recipients == ["bob@two.example", "eve@three.example"]
        assert agent.stop() == 0
        assert relay.violations == other.violations == []
    check_log(agent)


def test_reload_while_a_transaction_is_open_sends_nobody_twice(agent: Agent, relay: Relay) -> None:
    relay.rules.append(Rule("DOT", Delay(0.3)))
    limits = {"connections": 2, "recipients_per_message": 1}
    agent.configure(relay.port, relay=limits)
    agent.start()
    agent.drop("job", addresses(20))
    relay.wait_for(lambda r: len(r.accepted) >= 2)
    with Relay() as other:
        agent.configure(other.port, relay=limits)
        assert agent.process is not None
        agent.process.send_signal(signal.SIGHUP)
        assert agent.wait_state("job", "finished")["counts"]["sent"] == 20
        assert sorted(relay.recipients + other.recipients) == sorted(addresses(20))
        assert len(other.recipients) >= 10
        assert relay.violations == other.violations == []
        assert agent.stop() == 0


# --- side by side -------------------------------------------------------------------------------------------------


def test_jobs_are_sent_side_by_side(agent: Agent, relay: Relay) -> None:
    relay.rules.append(Rule("DOT", Delay(0.02)))
    agent.configure(relay.port, relay={"connections": 2, "recipients_per_message": 1})
    names = [f"job{number}" for number in range(6)]
    for name in names:
        agent.drop(name, addresses(15, f"{name}.example"), message=f"Subject: {name}\n\n{name}\n".encode())
    agent.start()
    for name in names:
        assert agent.wait_state(name, "finished")["counts"]["sent"] == 15
    order = [mail.recipients[0].rpartition("@")[2].removesuffix(".example") for mail in relay.accepted]
    # Once all are taken they take turns: nobody waits until another one is through.
    everywhere = order.index("job5"), len(order) - 1 - order[::-1].index("job0")
    assert everywhere[0] < everywhere[1]
    for name in names:
        mails = [mail for mail in relay.accepted if mail.recipients[0].endswith(f"@{name}.example")]
        assert sorted(mail.recipients[0] for mail in mails) == sorted(addresses(15, f"{name}.example"))
        assert all(f"Subject: {name}\r\n".encode() in mail.data for mail in mails)
        assert all(row["state"] == "sent" for row in agent.recipients(name))
    assert len(relay.accepted) == 90
    assert relay.ledger.peak <= 2
    assert relay.violations == []
    assert agent.stop() == 0
    count = check_log(agent)
    assert (count["job.accepted"], count["message.sent"]) == (6, 90)


def test_agents_on_different_spools_know_nothing_of_each_other(relay: Relay, tmp_path: Path) -> None:
    agents = []
    try:
        for name in ("red", "blue"):
            (tmp_path / name).mkdir()
            agents.append(Agent(tmp_path / name, relay.port).start())
        red, blue = agents
        # The same name and the same content: twins only within one spool.
        red.drop("job", ["ada@red.example"])
        blue.drop("job", ["ada@red.example"])
        blue.drop("own", ["bob@blue.example"])
        for agent, name in ((red, "job"), (blue, "job"), (blue, "own")):
            assert agent.wait_state(name, "finished")["counts"]["sent"] == 1
        assert Counter(relay.recipients) == {"ada@red.example": 2, "bob@blue.example": 1}
        assert red.find("own") is None
        red.kill()
        blue.drop("after", ["eve@blue.example"])
        blue.wait_state("after", "finished")
        assert blue.stop() == 0
    finally:
        for agent in agents:
            agent.stop(signal.SIGKILL)
    assert relay.violations == []


def test_start_on_an_old_spool_says_how_many_jobs_it_found(agent: Agent, relay: Relay) -> None:
    relay.rules.append(Rule("RCPT", Reply("450 4.7.1 Greylisted")))
    agent.start()
    for name in ("one", "two"):
        agent.drop(name, [f"{name}@one.example"])
        agent.wait_state(name, "waiting")
    assert agent.stop() == 0
    agent.start()
    assert [event["jobs"] for event in agent.events("agent.started")] == [2]
    assert agent.events("agent.started")[0]["spool"] == os.fspath(agent.spool)


def test_job_whose_last_message_ends_during_the_stop_is_finished_by_it(agent: Agent, relay: Relay) -> None:
    relay.rules.append(Rule("DOT", Delay(1.0)))
    agent.start()
    agent.drop("last", ["ada@one.example"])
    relay.wait_for(lambda _: relay.bodies)
    assert agent.stop() == 0
    assert (agent.spool / "done" / "last").is_dir()
    status = agent.status("last")
    assert status is not None
    assert (status["state"], status["counts"]["sent"]) == ("finished", 1)
