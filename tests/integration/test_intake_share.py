"""However many uploads somebody has, and however long they take to look at: another's is taken within seconds."""

import os
from pathlib import Path

import pytest

from tests.servers.agent import Agent, wait_for
from tests.servers.relay import Relay

OTHER = 12345

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


def _give(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, OTHER, OTHER)


def test_thousands_of_uploads_of_one_owner_keep_no_other_owner_waiting(agent: Agent, relay: Relay) -> None:
    later = {"send_after": "2037-01-01T00:00:00Z"}
    for number in range(3000):
        folder = agent.write_job(agent.spool / "tmp" / f"many-{number}", [f"ada@{number}.example"], manifest=later)
        _give(folder)
        folder.rename(agent.spool / "new" / folder.name)
    agent.start()
    wait_for(lambda: agent.events("upload.seen"))
    agent.drop("honest", ["ada@honest.example"])
    agent.wait_state("honest", "finished", 10)
    assert len(list((agent.spool / "deferred").glob("many-*"))) < 3000, "they were all taken before: this shows nothing"
    assert relay.recipients == ["ada@honest.example"]


def test_manifests_that_take_long_keep_nobody_waiting_and_cancel_works(agent: Agent, relay: Relay) -> None:
    agent.start()
    for number in range(20):
        folder = agent.spool / "tmp" / f"slow-{number}"
        folder.mkdir()
        (folder / "job.yaml").write_text(f"sender: n{number}@b.example\nrecipients: [" + "{a: 'b'}," * 7000 + '{a: "')
        _give(folder)
        folder.rename(agent.spool / "new" / folder.name)
    agent.drop("own", ["ada@own.example"])
    theirs = agent.write_job(agent.spool / "tmp" / "theirs", ["ada@theirs.example"])
    _give(theirs)
    theirs.rename(agent.spool / "new" / "theirs")
    agent.wait_state("own", "finished", 10)
    # The same owner's, too: what is looked at in a moment waits for nothing that takes long.
    agent.wait_state("theirs", "finished", 10)
    (agent.spool / "new/slow-19/CANCEL").touch()
    agent.wait_state("slow-19", "cancelled", 40)
    assert agent.events("agent.task_failed") == []
