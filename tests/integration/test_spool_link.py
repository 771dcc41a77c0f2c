"""A spool that was moved to a larger disk: the path of the whole may be a symbolic link, none of its folders may."""

import os
from pathlib import Path

import pytest

from tests.servers.agent import Agent
from tests.servers.relay import Relay


def test_spool_whose_path_is_a_link_is_made_checked_and_run(tmp_path: Path, relay: Relay) -> None:
    with Agent(tmp_path, relay.port) as agent:
        agent.clear()
        (tmp_path / "data").mkdir()
        agent.spool.symlink_to(tmp_path / "data")
        made = agent.command("init", str(agent.spool))
        assert (made.returncode, made.stderr) == (0, "")
        assert (tmp_path / "data" / "new").is_dir()
        checked = agent.command("check")
        assert checked.returncode == 0, checked.stdout
        agent.start()
        agent.drop("job", ["ada@one.example"])
        agent.wait_state("job", "finished")
        assert agent.command("status", "job").returncode == 0
        assert agent.stop() == 0


def test_init_makes_the_spool_where_a_link_leads_that_leads_nowhere_yet(tmp_path: Path, relay: Relay) -> None:
    with Agent(tmp_path, relay.port) as agent:
        agent.clear()
        agent.spool.symlink_to(tmp_path / "later")
        assert agent.command("init", str(agent.spool)).returncode == 0
        assert (tmp_path / "later" / "done").is_dir()


@pytest.mark.parametrize("name", ["tmp", "new", "active", "deferred", "done", ".spoold"])
def test_folder_of_the_spool_that_is_a_link_is_refused_alike_by_every_command(
    agent: Agent, tmp_path: Path, name: str
) -> None:
    os.rename(agent.spool / name, tmp_path / "elsewhere")
    (agent.spool / name).symlink_to(tmp_path / "elsewhere")
    said = f"a folder of it is a symbolic link to {tmp_path / 'elsewhere'} ({name}); "
    job = agent.write_job(tmp_path / "job")
    for command in (("init", str(agent.spool)), ("check",), ("run", "--drain"), ("submit", str(job), str(agent.spool))):
        found = agent.command(*command)
        text = (found.stdout + found.stderr).replace("\n", " ")
        assert found.returncode in (1, 2), (command, text)
        assert said in text, (command, text)
        assert "move the whole spool instead" in text
        assert "Traceback" not in text
    assert list((tmp_path / "elsewhere").iterdir()) == []
