"""The first moments of the agent: no signal kills it, a stop is heard while it recovers, and more time is asked for."""

import asyncio
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from spoold.cli import config
from tests.bench import start
from tests.servers.agent import Agent, wait_for
from tests.servers.relay import Relay

JOBS = 1500


@pytest.fixture
def many(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> Agent:
    """A spool with very many jobs, of which each second one is due, and stands in the wrong folder for that."""
    monkeypatch.setattr(start, "EACH", 2)
    asyncio.run(start._fill(agent.spool, JOBS, config.read(agent.config).agent.defaults.zone))
    return agent


def wait_begun(agent: Agent, number: int) -> None:
    """Wait until the agent has begun to let this signal wait, or to ignore it: the first thing that it does; or until it listens,
    if that was too short to be seen."""

    def look() -> bool:
        lines = Path(f"/proc/{agent.pid}/status").read_text().splitlines()
        masks = {
            name: int(mask, 16)
            for name, mask in (line.split() for line in lines if line.startswith("Sig"))
            if name != "SigQ:"
        }
        begun = (masks["SigBlk:"] | masks["SigIgn:"]) >> (number - 1) & 1
        return bool(begun or masks["SigCgt:"] >> (signal.SIGHUP - 1) & 1)

    wait_for(look, what="the first thing that it does")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM])
def test_signals_at_any_moment_of_the_start_do_not_end_the_agent(agent: Agent, relay: Relay, number: int) -> None:
    agent.start(wait=False)
    wait_begun(agent, number)
    while not agent.events("agent.started"):
        os.kill(agent.pid, number)
        time.sleep(0.01)  # a storm, bounded by the start
        assert agent.process is not None
        assert agent.process.poll() is None
    os.kill(agent.pid, number)
    agent.drop("job")
    agent.wait_state("job", "finished")
    reloads = len(agent.events("agent.reloaded"))
    assert (reloads > 0) is (number == signal.SIGHUP)
    assert agent.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_end_that_is_wanted_from_the_beginning_is_an_orderly_one(agent: Agent, number: int) -> None:
    agent.start(wait=False)
    wait_begun(agent, number)
    assert agent.stop(number) == 0
    assert [event["event"] for event in agent.events()][-2:] == ["agent.stopping", "agent.stopped"]
    assert not (agent.spool / "status.json").exists() or agent.events("agent.started")


def test_stop_is_heard_soon_though_very_many_reports_are_out_of_date(many: Agent, relay: Relay) -> None:
    many.start()
    begun = time.monotonic()
    assert many.stop() == 0
    assert time.monotonic() - begun < 10  # all of them take a minute
    # What was left is made up for.
    assert many.command("check", "--deep", "--repair", timeout=120).returncode == 0


def test_more_time_is_asked_for_before_ready_and_not_afterwards(many: Agent, tmp_path: Path, relay: Relay) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        watched = Agent(many.root, relay.port, environ={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        watched.start(wait=False)
        told: list[str] = []
        while not told or not told[-1].startswith("READY"):
            told.append(manager.recv(4096).decode())
        assert told[0] == "EXTEND_TIMEOUT_USEC=300000000"
        watched.kill()
