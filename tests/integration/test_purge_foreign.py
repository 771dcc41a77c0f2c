"""A finished job into which another user put what the agent may not remove: it is purged all the same."""

import os
from pathlib import Path

import pytest

from tests.servers.agent import Agent, wait_for
from tests.servers.nursery import PLAIN
from tests.servers.relay import Relay

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


@pytest.mark.parametrize("running", [True, False])
def test_what_cannot_be_removed_of_a_finished_job_is_set_aside_and_the_job_is_forgotten(
    tmp_path: Path, relay: Relay, running: bool
) -> None:
    with Agent(tmp_path, relay.port, environ={PLAIN: "1"}) as agent:
        agent.start()
        for name in ("job", "other"):
            agent.drop(name, [f"ada@{name}.example"])
            agent.wait_state(name, "finished")
        theirs = agent.spool / "done/job/theirs"
        theirs.mkdir()
        (theirs / "file").touch()
        os.chown(theirs, 12345, 12345)
        if not running:
            assert agent.stop() == 0

        def purged() -> bool:
            asked = agent.command("purge", "--yes", "--older-than", "1s")
            assert asked.returncode == 0, asked.stderr
            return len(list((agent.spool / "done").iterdir())) == 1

        wait_for(purged)
        [aside] = (agent.spool / "done").iterdir()
        assert aside.name.startswith(".aside-job-")
        assert [path.relative_to(aside).as_posix() for path in aside.rglob("*")] == ["theirs", "theirs/file"]
        if not running:
            agent.start()
        # Its name is free again.
        agent.drop("job", ["bob@job.example"])
        agent.wait_state("job", "finished")
        assert agent.stop() == 0
