"""Messages with several names: taken by copying where all the names are in the job, else that recipient fails and is told why."""

import os
from pathlib import Path

import pytest

from tests.servers.agent import MESSAGE, Agent
from tests.servers.relay import Relay

ROWS = "address,message\nada@one.example,m/1.eml\nbob@one.example,m/2.eml\ncarl@one.example,m/3.eml\n"


def _linked(agent: Agent, name: str) -> Path:
    folder = agent.write_job(
        agent.spool / "tmp" / name, ROWS, message=None, files={"m/1.eml": MESSAGE, "m/3.eml": MESSAGE}
    )
    os.link(folder / "m/1.eml", folder / "m/2.eml")
    return folder


@pytest.mark.parametrize("owner", [0, 12345])
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_messages_that_are_links_to_each_other_are_copied_and_sent(agent: Agent, relay: Relay, owner: int) -> None:
    agent.start()
    folder = _linked(agent, "job")
    (folder / "HOLD").touch()
    for path in (folder, *folder.rglob("*")):
        os.chown(path, owner, owner)
    assert agent.command("validate", str(folder)).returncode == 0
    with (folder / "m/1.eml").open("r+b", buffering=0) as late:
        folder.rename(agent.spool / "new" / "job")
        agent.wait_state("job", "held")
        late.write(b"Received: late\n")
    held = agent.spool / "deferred/job"
    assert {(held / f"m/{n}.eml").stat().st_nlink for n in (1, 2, 3)} == {1}
    (held / "HOLD").unlink()
    assert agent.wait_state("job", "finished")["counts"]["sent"] == 3
    assert all(b"late" not in mail.data for mail in relay.accepted)
    assert not list((agent.spool / "new").iterdir())


def test_submit_hands_over_messages_that_are_links_to_each_other(agent: Agent, relay: Relay, tmp_path: Path) -> None:
    agent.start()
    _linked(agent, "job").rename(tmp_path / "job")
    done = agent.command("submit", str(tmp_path / "job"), str(agent.spool))
    assert done.returncode == 0, done.stderr
    assert agent.wait_state("job", "finished")["counts"]["sent"] == 3


def test_message_with_a_name_elsewhere_fails_its_recipient_alone_and_says_what_to_do(
    agent: Agent, relay: Relay, tmp_path: Path
) -> None:
    agent.start()
    folder = _linked(agent, "job")
    os.link(folder / "m/3.eml", tmp_path / "elsewhere.eml")
    said = agent.command("validate", str(folder))
    assert said.returncode == 1
    folder.rename(agent.spool / "new" / "job")
    status = agent.wait_state("job", "finished")
    assert (status["counts"]["sent"], status["counts"]["failed"]) == (2, 1)
    (failed,) = [row for row in agent.recipients("job") if row["state"] == "failed"]
    assert failed["address"] == "carl@one.example"
    assert "copy it without cp -l or rsync -H" in failed["diagnostic"]
    assert "copy it without cp -l or rsync -H" in said.stderr


def test_back_up_by_links_costs_no_recipient_anything(agent: Agent, relay: Relay, tmp_path: Path) -> None:
    agent.start()
    files = {f"m/{n}.eml": MESSAGE for n in range(40)} | {"HOLD": b""}
    rows = "address,message\n" + "".join(f"u{n}@one.example,m/{n}.eml\n" for n in range(40))
    agent.drop("job", rows, message=None, files=files)
    agent.wait_state("job", "held")
    for path in (agent.spool / "deferred/job/m").iterdir():
        os.link(path, tmp_path / path.name)
    (agent.spool / "deferred/job/HOLD").unlink()
    assert agent.wait_state("job", "finished")["counts"]["sent"] == 40
    assert [attempt for attempt in agent.attempts("job") if attempt["result"] != "sent"] == []
