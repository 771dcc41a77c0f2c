"""A spool that is copied while no agent runs on it continues where it was, at its new place."""

import shutil
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.servers.agent import Agent, wait_for
from tests.servers.process import find_program
from tests.servers.relay import Relay, Reply, Rule

EVERYBODY = [f"u{number}@one.example" for number in range(60)]


def move(source: Agent, target: Path, port: int, how: str) -> Agent:
    """An agent on a copy of the spool, as if on another machine; the old one is gone."""
    (target / "spool").mkdir(parents=True)
    if how == "rsync":
        subprocess.run([find_program("rsync"), "-a", f"{source.spool}/", f"{target}/spool/"], check=True)
    else:
        archive = target / "spool.tar"
        subprocess.run([find_program("tar"), "-C", source.spool, "-cf", archive, "."], check=True)
        subprocess.run([find_program("tar"), "-C", target / "spool", "-xpf", archive], check=True)
    shutil.rmtree(source.spool)
    return Agent(target, port)


@pytest.mark.parametrize("how", ["rsync", "tar"])
def test_a_spool_that_was_copied_while_stopped_continues_there(
    agent: Agent, relay: Relay, tmp_path: Path, how: str
) -> None:
    relay.rules.append(Rule("RCPT", Reply("450 4.2.1 Later"), match="later"))
    agent.start()
    agent.drop("half", EVERYBODY, manifest={"rate": "20/s"})
    agent.drop("ended", ["ended@one.example"])
    agent.drop("again", ["later@one.example"], manifest={"retry": {"every": "1h", "for": "1d"}})
    agent.drop("held", ["held@one.example"], files={"HOLD": b""})
    agent.wait_state("ended", "finished")
    agent.wait_state("again", "waiting")
    agent.wait_state("held", "held")
    wait_for(lambda: len(relay.recipients) >= 15, what="some recipients")
    assert agent.stop() == 0
    sent = len(relay.recipients)
    assert sent < len(EVERYBODY)
    ended = agent.recipients("ended")
    # Uploaded while nobody was there, and copied with the rest.
    agent.drop("fresh", ["fresh@one.example"], files={"READY": b""})
    relay.rules.clear()
    with move(agent, tmp_path / "elsewhere", relay.port, how) as other:
        assert other.command("check", "--deep").returncode == 0
        other.start()
        other.wait_state("half", "finished")
        other.wait_state("fresh", "finished")
        (other.spool / "deferred" / "again" / "RETRY").touch()
        (other.spool / "deferred" / "held" / "HOLD").unlink()
        other.wait_state("again", "finished")
        other.wait_state("held", "finished")
        assert other.recipients("ended") == ended
        # A repetition is known there, too.
        other.drop("ended-too", ["ended@one.example"])
        assert other.wait_state("ended-too", "rejected")["reason"] == "duplicate of ended"
        assert other.stop() == 0
        assert other.command("check", "--deep").returncode == 0
    everybody = [*EVERYBODY, *(f"{name}@one.example" for name in ("ended", "later", "held", "fresh"))]
    assert Counter(relay.recipients) == Counter(everybody)
    assert relay.violations == []


def test_a_spool_of_a_killed_agent_can_be_copied_with_its_write_ahead_log(
    agent: Agent, relay: Relay, tmp_path: Path
) -> None:
    agent.start()
    agent.drop("half", EVERYBODY, manifest={"rate": "20/s", "on_uncertain": "hold"})
    wait_for(lambda: len(relay.recipients) >= 15, what="some recipients")
    agent.stop(signal.SIGKILL)
    assert (agent.spool / ".spoold" / "spool.db-wal").stat().st_size > 0
    with move(agent, tmp_path / "elsewhere", relay.port, "rsync") as other:
        other.start()
        wait_for(
            lambda: (
                (status := other.status("half"))
                and status["counts"]["queued"] == 0
                and status["counts"]["sending"] == 0
            ),
            what="the rest",
        )
        assert other.stop() == 0
        counts = (other.status("half") or {})["counts"]
        assert counts["sent"] + counts["uncertain"] == len(EVERYBODY)
        assert counts["uncertain"] <= 2
        assert other.command("check", "--deep").returncode == 0
    # Nobody twice: the uncertain ones are not sent again by themselves.
    assert max(Counter(relay.recipients).values()) == 1
