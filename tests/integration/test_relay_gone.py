"""A relay that waiting jobs name is taken out of the configuration: they wait for it, and go by no other."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.servers.agent import Agent, wait_for
from tests.servers.relay import Relay, Reply, Rule

TOLD = "relay old is no longer in the configuration; to do: put it back, or cancel the job"


def _relays(agent: Agent, **ports: int | dict[str, Any]) -> None:
    """Write the configuration with these relays, each a port or settings."""
    relays = {
        name: {"host": "127.0.0.1", "security": "none", **(port if isinstance(port, dict) else {"port": port})}
        for name, port in ports.items()
    }
    agent.configure(0, config={"relays": relays})


def _waits(agent: Agent, name: str, timeout: float = 8.0) -> dict[str, Any]:
    """The status of a job that waits for the relay `old` and says so."""

    def look() -> dict[str, Any] | None:
        status = agent.status(name)
        return status if status is not None and status["relay_error"] == TOLD else None

    return wait_for(look, timeout, f"{name} told that its relay is gone: {agent.status(name)}")


def _reload(agent: Agent) -> None:
    assert agent.process is not None
    before = len(agent.events("agent.reloaded"))
    agent.process.send_signal(signal.SIGHUP)
    wait_for(lambda: len(agent.events("agent.reloaded")) > before)


@pytest.fixture
def other() -> Any:
    with Relay() as relay:
        yield relay


@pytest.mark.parametrize("how", ["restart", "kill", "reload"])
def test_job_waits_for_the_relay_that_it_names_until_that_is_back(
    agent: Agent, relay: Relay, other: Relay, how: str
) -> None:
    relay.rules.append(Rule("RCPT", Reply("451 4.3.0 not now"), match="late"))
    _relays(agent, old=relay.port, default=other.port)
    agent.start()
    agent.drop(
        "j",
        ["early@one.example", *(f"late{n}@one.example" for n in range(3))],
        manifest={"relay": "old", "retry": {"every": "1s", "for": "1h"}},
    )
    wait_for(lambda: len(agent.attempts("j")) >= 4)
    relay.stop()
    relay.rules.clear()
    # Nothing is open any more, so that a kill leaves no doubt.
    wait_for(lambda: (agent.status("j") or {})["relay_error"])
    _relays(agent, default=other.port)
    if how == "reload":
        _reload(agent)
    else:
        agent.stop(signal.SIGTERM if how == "restart" else signal.SIGKILL)
        agent.start()
    status = _waits(agent, "j")
    wait_for(lambda: agent.wait_state("j", "waiting")["reason"] == "relay", what="the retry to be due")
    # Restarted, edited and reloaded once more, it still does.
    agent.stop()
    agent.start()
    folder = agent.find("j")
    assert folder is not None
    manifest = json.loads((folder / "job.yaml").read_text())
    (folder / "job.yaml").write_text(json.dumps({**manifest, "rate": "100/s", "relay": "default"}))
    wait_for(lambda: agent.events("job.edited"))
    _reload(agent)
    # The other relay works all the while: a job that names it comes through.
    agent.drop("k", ["kim@one.example"])
    agent.wait_state("k", "finished")
    _waits(agent, "j")
    assert other.recipients == ["kim@one.example"]
    assert agent.wait_state("j", "waiting")["counts"]["sent"] == status["counts"]["sent"]
    # Put back, it is used again.
    relay.start()
    _relays(agent, old=relay.port, default=other.port)
    _reload(agent)
    agent.wait_state("j", "finished")
    assert sorted(relay.recipients) == sorted(["early@one.example", *(f"late{n}@one.example" for n in range(3))])
    assert other.recipients == ["kim@one.example"]


def test_job_of_a_relay_that_is_gone_can_be_asked_about_and_cancelled(
    agent: Agent, relay: Relay, other: Relay, tmp_path: Path
) -> None:
    _relays(agent, old=relay.port, default=other.port)
    agent.start()
    # Outside its window nothing about its standing changes: its report tells of the relay all the same.
    agent.drop("j", ["ada@one.example"], manifest={"relay": "old", "send_after": "2099-01-01T00:00:00Z"})
    agent.drop(
        "k", ["bob@one.example"], manifest={"relay": "old", "expires": "2099-01-01T00:00:00Z"}, files={"HOLD": b""}
    )
    agent.wait_state("j", "scheduled")
    agent.wait_state("k", "held")
    _relays(agent, default=other.port)
    _reload(agent)
    assert _waits(agent, "j")["state"] == "scheduled"
    agent.stop()
    agent.start()
    _waits(agent, "j")
    (agent.find("k") / "HOLD").unlink()  # type: ignore[operator]
    assert agent.wait_state("k", "waiting")["reason"] == "relay"
    plan = agent.command("plan", "k")
    assert plan.returncode == 0
    assert "the relay cannot be used" in plan.stdout
    assert TOLD in plan.stderr
    check = agent.command("check", "--deep")
    assert (check.returncode, "internal error" in check.stderr) == (0, False), check.stdout + check.stderr
    metrics = wait_for(
        lambda: next(
            (
                line
                for line in _metrics(agent)
                if line.startswith("spoold_recipients{") and 'relay="old"' in line and 'state="queued"' in line
            ),
            None,
        )
    )
    assert metrics.endswith(" 2.0")
    (agent.find("k") / "CANCEL").touch()  # type: ignore[operator]
    agent.wait_state("k", "cancelled")
    assert other.recipients == []


def _metrics(agent: Agent) -> list[str]:
    path = agent.spool / "metrics.prom"
    return path.read_text().splitlines() if path.exists() else []


def test_fallback_of_the_relay_that_is_gone_is_gone_with_it(agent: Agent, relay: Relay, other: Relay) -> None:
    relay.stop()
    _relays(agent, old={"port": relay.port, "fallback": "default"}, default=other.port)
    agent.start()
    agent.drop("j", ["ada@one.example"], manifest={"relay": "old"})
    agent.wait_state("j", "finished")
    assert other.recipients == ["ada@one.example"]
    agent.stop()
    agent.drop("k", ["bob@one.example"], manifest={"relay": "old"}, files={"HOLD": b""})
    agent.start()
    agent.wait_state("k", "held")
    agent.stop()
    _relays(agent, default=other.port)
    agent.start()
    (agent.find("k") / "HOLD").unlink()  # type: ignore[operator]
    assert agent.wait_state("k", "waiting")["reason"] == "relay"
    _waits(agent, "k")
    assert other.recipients == ["ada@one.example"]
