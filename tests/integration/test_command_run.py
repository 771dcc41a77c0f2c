"""`spoold run`: one agent a spool, and `--drain`, which ends when nothing can be sent any more."""

import socket

from tests.servers.agent import Agent
from tests.servers.relay import Relay, Reply, Rule


def test_second_agent_is_refused_by_the_name_of_the_first(agent: Agent) -> None:
    agent.start()
    done = agent.command("run")
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("spoold: ")
    assert f"in use by spoold, pid {agent.pid} on {socket.gethostname()}" in line
    assert agent.stop() == 0


def test_drain_sends_what_can_be_sent_now_and_ends(agent: Agent, relay: Relay) -> None:
    relay.rules.append(Rule("RCPT", Reply("450 4.7.1 Greylisted"), match="grey"))
    agent.drop("one", [f"r{number}@one.example" for number in range(30)])
    agent.drop("two", ["good@two.example", "grey@two.example"])
    agent.write_job(agent.spool / "new" / "quiet", ["quiet@three.example"])
    agent.start(wait=False, arguments=["--drain"])
    assert agent.died(25) == 0
    assert agent.status("one")["counts"]["sent"] == 30  # type: ignore[index]
    assert agent.status("quiet")["state"] == "finished"  # type: ignore[index]
    waiting = agent.status("two")
    assert waiting is not None
    assert (waiting["state"], waiting["reason"]) == ("waiting", "retry")
    assert len(relay.recipients) == len(set(relay.recipients)) == 32
    assert relay.violations == []


def test_drain_ends_while_an_upload_is_incomplete_and_the_relay_is_down(agent: Agent, relay: Relay) -> None:
    relay.stop()
    agent.drop("job")
    agent.write_job(agent.spool / "new" / "part", manifest={"expect": {"recipients": 2}})
    agent.start(wait=False, arguments=["--drain"])
    assert agent.died(25) == 0
    status = agent.status("job")
    assert status is not None
    assert (status["state"], status["reason"]) == ("waiting", "relay")
    assert (agent.spool / "new" / "part").is_dir()
