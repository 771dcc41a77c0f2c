"""Where the spool is: one mount, and the same place for as long as an agent runs."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.servers.agent import Agent, wait_for
from tests.servers.relay import Relay

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")


@pytest.mark.parametrize("idle", [True, False])
def test_spool_that_is_moved_away_ends_the_agent_in_a_line_and_loses_nothing(
    agent: Agent, relay: Relay, idle: bool
) -> None:
    people = [f"u{number}@one.example" for number in range(200)]
    agent.start()
    if not idle:
        agent.drop("job", people, manifest={"rate": "50/s", "on_uncertain": "hold"})
        wait_for(lambda: len(relay.recipients) > 5)
    else:
        wait_for(agent.state)
    away = agent.root / "away"
    agent.spool.rename(away)
    moved = time.monotonic()
    assert agent.died() == 1
    assert time.monotonic() - moved < 5
    [failed] = agent.events("agent.failed")
    assert failed["error"].startswith(f"the spool is gone: {agent.spool} was moved")
    log = agent.log_file.read_text()
    assert "a bug" not in log
    assert log.splitlines()[-1] == f"spoold: {failed['error']}"
    away.rename(agent.spool)
    agent.start()
    if not idle:
        status = agent.wait_state("job", "finished")
        assert status["counts"]["sent"] == 200
        assert sorted(relay.recipients) == sorted(people)


def test_spool_that_is_removed_ends_the_agent_in_a_line(agent: Agent) -> None:
    agent.start()
    wait_for(agent.state)
    shutil.rmtree(agent.spool, ignore_errors=True)
    shutil.rmtree(agent.spool, ignore_errors=True)
    assert agent.died() == 1
    assert [event["error"].partition(":")[0] for event in agent.events("agent.failed")] == ["the spool is gone"]
    assert "a bug" not in agent.log_file.read_text()


@root_only
@pytest.mark.parametrize("folder", ["tmp", "new", "active", "deferred", "done"])
def test_folder_of_the_spool_on_another_mount_is_refused_and_named_by_check(
    agent: Agent, tmp_path: Path, folder: str
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    place = agent.spool / folder
    # A bind mount of the same file system: its device is the same.
    if subprocess.run(["mount", "--bind", str(other), str(place)], capture_output=True).returncode != 0:
        pytest.skip("no mounts here")
    try:
        agent.start(wait=False)
        assert agent.died() == 1
        [line] = agent.log_file.read_text().splitlines()
        named = "tmp" if folder == "new" else folder
        assert line.startswith(f"spoold: {agent.spool}: {named}/ and new/ are on different mounts")
        assert line.endswith(f"mount the whole of {agent.spool}, not a folder of it")
        checked = agent.command("check")
        assert checked.returncode == 1
        assert f"{named}/ and new/ are on different mounts" in checked.stderr
    finally:
        subprocess.run(["umount", str(place)], check=True)
    agent.start()
    assert agent.stop() == 0


def test_what_stood_in_the_way_is_named_by_check_with_what_to_do(agent: Agent, relay: Relay) -> None:
    """A report's temporary name, and a leftover that is none of the agent's."""
    agent.start()
    agent.drop("job", ["ada@one.example"], manifest={"send_after": "2099-01-01T00:00:00Z"})
    agent.wait_state("job", "scheduled")
    report = agent.spool / "deferred/job/report"
    (report / ".status.json.tmp/full").mkdir(parents=True)
    (agent.spool / "new/.picked-x").mkdir()
    assert agent.stop() == 0
    agent.start()
    (agent.spool / "deferred/job/CANCEL").touch()
    agent.wait_state("job", "cancelled")
    told = {(event["where"], event["kind"]) for event in agent.events("spool.set_aside")}
    assert told >= {(f"{agent.spool}/new/.picked-x", "a directory")}
    checked = agent.command("check")
    [line] = [line for line in checked.stdout.splitlines() if "set aside" in line]
    assert "new/.aside-picked-x-" in line
    assert "done/job/report/.aside-status.json.tmp-" in line
    assert line.endswith("to do: see whose it is (ls -l), then remove it: nobody looks at it again")
    assert agent.stop() == 0
