"""Uploads that belong to another user than the agent's: taken by copy, or told what their modes should be."""

import os
import shlex
import sys
from pathlib import Path

import pytest

from tests.servers.agent import Agent, wait_for
from tests.servers.process import find_program
from tests.servers.relay import Relay
from tests.servers.upload import assert_whole, waits

OTHER = 12345
HINT = "; copy with `rsync --chmod=D2770,F0660`"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


def _give(folder: Path, *, directories: int = 0o755, files: int = 0o644, uid: int = OTHER) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(directories if path.is_dir() else files)
        os.chown(path, uid, uid)


def test_upload_of_another_user_is_taken_by_copy_and_stays_as_it_was_taken(agent: Agent, relay: Relay) -> None:
    agent.start()
    folder = agent.write_job(agent.spool / "tmp" / "theirs", ["ada@theirs.example"], files={"HOLD": b"", "a/b": b"x"})
    _give(folder)
    # A writer who still has a file open when the job is taken.
    with (folder / "message.eml").open("r+b", buffering=0) as late:
        folder.rename(agent.spool / "new" / "theirs")
        agent.wait_state("theirs", "held")
        late.write(b"Received: late\n")
    held = agent.spool / "deferred" / "theirs"
    owned = {path.relative_to(held).as_posix(): path.stat().st_uid for path in held.rglob("*")}
    assert {"job.yaml", "message.eml", "recipients.csv", "a/b"} <= owned.keys()
    assert set(owned.values()) == {0}
    (held / "HOLD").unlink()
    status = agent.wait_state("theirs", "finished")
    assert status["counts"]["sent"] == status["total"] == 1
    assert_whole(status)
    (mail,) = relay.accepted
    assert b"late" not in mail.data
    assert not list((agent.spool / "new").iterdir())
    assert relay.violations == []


def test_file_of_a_third_user_is_never_taken_in_the_name_of_the_folders_owner(agent: Agent, relay: Relay) -> None:
    agent.start()
    folder = agent.write_job(agent.spool / "tmp" / "mixed", ["ada@mixed.example"])
    os.chown(folder / "message.eml", OTHER, OTHER)
    folder.rename(agent.spool / "new" / "mixed")
    agent.drop("beside", ["ada@beside.example"])
    wait_for(lambda: waits(agent).get("mixed") == "message.eml belongs to another user than the folder")
    agent.wait_state("beside", "finished")
    assert relay.recipients == ["ada@beside.example"]
    assert sorted(path.name for path in (agent.spool / "new" / "mixed").iterdir()) == [
        "job.yaml", "message.eml", "recipients.csv",
    ]  # fmt: skip
    os.chown(agent.spool / "new" / "mixed" / "message.eml", 0, 0)
    agent.wait_state("mixed", "finished")
    assert relay.recipients == ["ada@beside.example", "ada@mixed.example"]


@pytest.fixture
def plain_agent(agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Agent:
    """An agent without root's right to read and write everybody's files."""
    launcher = tmp_path / "python"
    python = shlex.quote(sys.executable)
    launcher.write_text(
        f'#!/bin/sh\nexec {find_program("setpriv")} --bounding-set=-all --inh-caps=-all {python} "$@"\n'
    )
    launcher.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(launcher))
        agent.start()
    return agent


def test_upload_that_cannot_be_read_is_told_with_the_modes_it_should_have(plain_agent: Agent, relay: Relay) -> None:
    agent, new, tmp = plain_agent, plain_agent.spool / "new", plain_agent.spool / "tmp"
    closed = {"folder": ".", "manifest": "job.yaml", "message": "message.eml", "recipients": "recipients.csv"}
    for name, file in closed.items():
        folder = agent.write_job(tmp / name, [f"ada@{name}.example"])
        _give(folder)
        (folder / file).chmod(0o700 if file == "." else 0o600)
        folder.rename(new / name)
    agent.drop("beside", ["ada@beside.example"])
    agent.wait_state("beside", "finished")
    text = f"cannot be taken: Permission denied{HINT}"
    wait_for(lambda: waits(agent) == dict.fromkeys(closed, text), what=text)
    assert sorted((event["upload"], event["problem"]) for event in agent.events("upload.problem")) == sorted(
        (name, text) for name in closed
    )
    assert relay.recipients == ["ada@beside.example"]
    for name, file in closed.items():
        (new / name / file).chmod(0o755 if file == "." else 0o644)
        # It is looked at again after half a minute, or as soon as something stirs.
        (new / name).rename(tmp / name)
        (tmp / name).rename(new / name)
    for name in closed:
        status = agent.wait_state(name, "finished")
        assert status["counts"]["sent"] == status["total"] == 1
    everybody = ["ada@beside.example", *(f"ada@{name}.example" for name in closed)]
    assert sorted(relay.recipients) == sorted(everybody)
    # What it may not remove of another's folder is out of the way, and told.
    assert sorted(path.name for path in new.iterdir()) == sorted(f".taken-{name}" for name in closed)
    assert [event["problem"] for event in agent.events("upload.problem")[len(closed) :]] == [
        "was taken; it cannot be removed: Permission denied"
    ] * len(closed)
    # Nor is it taken for something new by the next start.
    assert agent.stop() == 0
    agent.start()
    agent.drop("after", ["ada@after.example"])
    agent.wait_state("after", "finished")
    assert sorted(relay.recipients) == sorted([*everybody, "ada@after.example"])
    assert relay.violations == []
