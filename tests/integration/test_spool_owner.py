"""Whose agent it is: nobody but the spool's own user works on it, root neither, and no link of that user's is followed."""

import os
import pwd
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spoold.storage.files import Files
from spoold.storage.owner import require_owner, require_same
from spoold.storage.spooldir import Spool, SpoolError
from tests.servers.agent import Agent
from tests.servers.relay import Relay

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

OWNER = 64011


@pytest.fixture
def foreign(relay: Relay) -> Iterator[Agent]:
    """A spool of the user OWNER, with one that can be seen from outside."""
    root = Path(tempfile.mkdtemp(prefix="spoold-owner-"))
    root.chmod(0o755)
    with Agent(root, relay.port) as agent:
        give(agent.spool, OWNER)
        yield agent
    shutil.rmtree(root)


def give(spool: Path, uid: int) -> None:
    for path in (spool, *spool.rglob("*")):
        os.chown(path, uid, uid, follow_symlinks=False)


def owners(folder: Path) -> set[int]:
    return {path.lstat().st_uid for path in (folder, *folder.rglob("*"))}


@pytest.mark.parametrize(
    "arguments",
    [("run", "--drain"), ("check", "--deep", "--repair"), ("purge", "--older-than", "1s", "--yes")],
    ids=lambda arguments: arguments[0],
)
def test_root_is_refused_on_the_spool_of_another_and_told_how(
    foreign: Agent, relay: Relay, arguments: tuple[str, ...]
) -> None:
    give(foreign.spool, 0)
    foreign.start()
    foreign.drop("j", ["ada@one.example"])
    foreign.wait_state("j", "finished")
    foreign.stop()
    give(foreign.spool, OWNER)
    done = foreign.command(*arguments)
    assert done.returncode == 1
    assert f"reuid={OWNER}" in done.stdout + done.stderr
    assert (foreign.spool / "done" / "j").exists()
    # SQLite's files beside a database that is read are given to its owner.
    assert owners(foreign.spool) == {OWNER}


def test_the_name_of_the_user_is_told_where_there_is_one(foreign: Agent) -> None:
    user = pwd.getpwnam("nobody")
    give(foreign.spool, user.pw_uid)
    done = foreign.command("run", "--drain")
    assert done.returncode == 1
    assert done.stderr == (
        f"spoold: {foreign.spool}: is the spool of nobody, and only its own user may do this; as root:"
        " runuser -u nobody -- spoold …\n"
    )


def test_private_folder_is_not_made_in_a_spool_of_another(foreign: Agent) -> None:
    (foreign.spool / ".spoold").rmdir()
    assert foreign.command("run", "--drain").returncode == 1
    assert not (foreign.spool / ".spoold").exists()


def link(path: Path) -> None:
    path.symlink_to(path.parent.parent.parent / "made")


def foreign_file(path: Path) -> None:
    path.touch()
    os.chown(path, OWNER, OWNER)


@pytest.mark.parametrize("name", ["spool.db", "spool.db-wal", "spool.db-shm", "spool.db-journal", "lock"])
@pytest.mark.parametrize(
    ("plant", "told"),
    [
        (link, "is a symbolic link"),
        (os.mkfifo, "is no plain file"),
        (foreign_file, f"belongs to uid {OWNER}"),
    ],
    ids=["link", "fifo", "foreign"],
)
def test_private_files_are_no_links_and_the_users_own(
    agent: Agent, name: str, plant: Callable[[Path], object], told: str
) -> None:
    path = agent.spool / ".spoold" / name
    plant(path)
    done = agent.command("run", "--drain")
    assert done.returncode == 1
    assert done.stderr.startswith(f"spoold: {path}: {told}; expected ")
    assert not (agent.root / "made").exists()


def test_private_folder_is_closed_to_others_and_is_no_link(agent: Agent, tmp_path: Path) -> None:
    private = agent.spool / ".spoold"
    private.chmod(0o777)
    assert agent.command("run", "--drain").returncode == 0
    assert private.stat().st_mode & 0o777 == 0o700
    private.rename(tmp_path / "elsewhere")
    private.symlink_to(tmp_path / "elsewhere")
    done = agent.command("run", "--drain")
    assert done.returncode == 1
    assert done.stderr.startswith(f"spoold: {agent.spool}: cannot open the spool: ")


def test_folder_that_was_exchanged_meanwhile_is_found(agent: Agent, tmp_path: Path) -> None:
    agent.start()
    agent.stop()
    spool = Spool(agent.spool, Files())
    try:
        require_owner(spool)
        require_same(spool)
        private = agent.spool / ".spoold"
        private.rename(tmp_path / "first")
        shutil.copytree(tmp_path / "first", private)
        with pytest.raises(SpoolError, match="is not the file that stands in the spool"):
            require_same(spool)
    finally:
        spool.close()
