"""Relays for whose names nobody answers: they hold up no other relay, no stop, no reload and no `check`."""

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from spoold.cli import config
from spoold.cli.check.finding import Findings
from spoold.cli.check.probe import check_relays
from spoold.storage.files import Files
from tests.servers.agent import Agent
from tests.servers.inprocess import live
from tests.servers.relay import Relay

DEAD = 12


@pytest.fixture(autouse=True)
def nobody_answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For names in `.dead` nobody answers before the test is over."""
    over = threading.Event()
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *rest: Any, **more: Any) -> Any:
        if str(host).endswith(".dead"):
            over.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return real(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield
    over.set()


def _configure(agent: Agent, relay: Relay, connect: str) -> None:
    dead = {
        f"r{number}": {"host": f"r{number}.dead", "port": 25, "security": "none", "timeouts": {"connect": connect}}
        for number in range(DEAD)
    }
    good = {"host": "localhost", "port": relay.port, "security": "none"}
    agent.configure(relay.port, config={"relays": {**dead, "default": good}})


async def test_relay_with_a_name_that_is_known_sends_and_the_agent_stops_at_once(agent: Agent, relay: Relay) -> None:
    _configure(agent, relay, "30s")
    for number in range(DEAD):
        agent.drop(f"dead{number}", [f"to{number}@one.example"], manifest={"relay": f"r{number}"})
    ended_at = 0.0
    dropped = False

    def until() -> bool:
        nonlocal ended_at, dropped
        if not dropped and all(
            (agent.spool / "deferred" / f"dead{number}").is_dir() or agent.status(f"dead{number}")
            for number in range(DEAD)
        ):
            dropped = True
            agent.drop("good", ["ada@one.example"])
        ended_at = time.monotonic()
        return (agent.spool / "done" / "good").is_dir()

    assert await live(agent, Files(), until, timeout=15) is None
    assert time.monotonic() - ended_at < 5
    assert relay.recipients == ["ada@one.example"]


async def test_check_visits_relays_side_by_side_and_tells_of_them_in_order(
    agent: Agent, relay: Relay, capsys: pytest.CaptureFixture[str]
) -> None:
    _configure(agent, relay, "1s")
    findings = Findings(as_json=False)
    begun = time.monotonic()
    await check_relays(config.read(agent.config), None, findings)
    assert time.monotonic() - begun < 5
    told = capsys.readouterr()
    lines = [line for line in told.err.splitlines() if "no name server answered within 1 s" in line]
    assert [line.split()[2] for line in lines] == [f"r{number}:" for number in range(DEAD)]
    assert "relay default at localhost" in told.out
