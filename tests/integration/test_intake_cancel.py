"""CANCEL and HOLD for an upload that is being taken: it has no folder of its name then, and is found all the same."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.servers.agent import Agent, wait_for
from tests.servers.relay import Relay
from tests.servers.script import Command, Reply, Rule

MANY = [f"user{n}@d{n % 100}.example" for n in range(150_000)]


def _taking(agent: Agent) -> bool:
    return any((agent.spool / "active").glob(".take-*")) and agent.find("big") is None


def _drop(agent: Agent) -> int:
    """A job that takes seconds to be taken; returns a descriptor of its folder."""
    folder = agent.write_job(agent.spool / "tmp" / "big", MANY)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    folder.rename(agent.spool / "new" / "big")
    wait_for(lambda: _taking(agent))
    return fd


@pytest.mark.parametrize("how", ["command", "old folder"])
def test_job_that_is_cancelled_while_it_is_taken_sends_nothing(agent: Agent, relay: Relay, how: str) -> None:
    agent.start()
    fd = _drop(agent)
    shown = agent.command("status", "big")
    assert shown.returncode == 0, shown.stderr
    assert "big" in shown.stdout
    if how == "command":
        told: subprocess.CompletedProcess[str] = agent.command("cancel", "big")
        assert (told.returncode, told.stderr) == (0, "")
    else:
        os.close(os.open("CANCEL", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    assert agent.wait_state("big", "cancelled", 30)["counts"]["sent"] == 0
    assert relay.recipients == []
    assert agent.stop() == 0


def test_cancel_of_an_upload_whose_taking_is_killed_is_obeyed_by_the_next_start(agent: Agent, relay: Relay) -> None:
    agent.start()
    os.close(_drop(agent))
    assert agent.command("cancel", "big").returncode == 0
    agent.kill()
    agent.start()
    agent.wait_state("big", "cancelled", 30)
    assert relay.recipients == []


def test_job_that_is_held_while_it_is_taken_waits_and_goes_on_when_it_is_released(agent: Agent, relay: Relay) -> None:
    agent.start()
    os.close(_drop(agent))
    assert agent.command("hold", "big").returncode == 0
    assert agent.wait_state("big", "held", 30)["counts"]["queued"] == len(MANY)
    assert relay.recipients == []
    assert agent.command("release", "big").returncode == 0
    wait_for(lambda: relay.recipients)
    assert agent.command("cancel", "big").returncode == 0
    agent.wait_state("big", "cancelled", 30)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_upload_of_another_user_that_came_back_is_cancelled_like_any_other(agent: Agent, relay: Relay) -> None:
    folder = agent.write_job(agent.spool / "tmp" / "big", ["ada@one.example"])
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 12345, 12345)
    agent.start(failpoint="before-accept:1:EIO")
    folder.rename(agent.spool / "new" / "big")
    wait_for(lambda: agent.events("upload.problem"))
    assert agent.command("cancel", "big").returncode == 0
    agent.wait_state("big", "cancelled")
    assert relay.recipients == []


def test_retry_beside_cancel_is_not_obeyed(agent: Agent, relay: Relay) -> None:
    relay.rules.append(Rule(Command.RCPT, Reply("450 4.2.0 later")))
    agent.start()
    agent.drop("job", ["ada@one.example"])
    agent.wait_state("job", "waiting")
    folder = agent.spool / "deferred" / "job"
    agent.kill()
    (folder / "RETRY").touch()
    (folder / "CANCEL").touch()
    agent.start()
    agent.wait_state("job", "cancelled")
    assert agent.events("job.retried") == []
    assert agent.command("check", "--deep").returncode in (0, 1)
    assert not Path(agent.spool / "done/job/RETRY").exists()
