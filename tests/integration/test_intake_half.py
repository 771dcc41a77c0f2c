"""Uploads that lose files while they are taken, and what somebody left under the names that the agent needs for them."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers.agent import MESSAGE, Agent, wait_for
from tests.servers.relay import Relay
from tests.servers.upload import waits

OTHER = 12345

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


def _theirs(agent: Agent, name: str, count: int = 5) -> Path:
    rows = "address,message\n" + "".join(f"u{n}@one.example,messages/{n}.eml\n" for n in range(count))
    files = {f"messages/{n}.eml": MESSAGE for n in range(count)}
    folder = agent.write_job(agent.spool / "tmp" / name, rows, message=None, files=files)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, OTHER, OTHER)
    return folder


@pytest.mark.parametrize("word", [None, "READY"])
def test_upload_that_lost_a_file_while_it_was_copied_is_sent_when_that_is_back(
    agent: Agent, relay: Relay, word: str | None
) -> None:
    folder = _theirs(agent, "job")
    if word is not None:
        (folder / word).touch()
    agent.start(failpoint="file-taken:4:EIO")
    folder.rename(agent.spool / "new" / "job")
    wait_for(lambda: agent.events("upload.problem") and (agent.spool / "new/job").is_dir())
    lost = agent.spool / "new/job/messages/3.eml"
    lost.unlink()
    wait_for(lambda: "messages/3.eml, which vanished" in waits(agent).get("job", ""))
    agent.drop("beside", ["ada@beside.example"])
    agent.wait_state("beside", "finished")
    time.sleep(2.5)  # longer than it would have to rest
    assert relay.recipients == ["ada@beside.example"]
    lost.write_bytes(MESSAGE)
    os.chown(lost, OTHER, OTHER)
    assert agent.wait_state("job", "finished")["counts"]["sent"] == 5
    assert not list((agent.spool / "active").iterdir())


def test_upload_that_is_removed_while_it_is_copied_is_gone_and_its_name_is_free(agent: Agent, relay: Relay) -> None:
    agent.start(failpoint="file-taken:4:EIO")
    claimed = agent.spool / "new/.claim-job"
    agent.stop()
    # A kill in the middle of the copy, and the owner takes it all away before the next start.
    agent.start(failpoint="file-taken:4")
    _theirs(agent, "job").rename(agent.spool / "new" / "job")
    agent.died()
    assert list((agent.spool / "active/.take-job").rglob("*.*"))
    for path in sorted(claimed.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    claimed.rmdir()
    agent.start()
    [told] = wait_for(lambda: agent.events("upload.problem"))
    assert told["problem"] == "was removed while it was being taken; nothing of it is sent"
    agent.drop("job", ["ada@again.example"])
    assert agent.wait_state("job", "finished")["total"] == 1
    assert relay.recipients == ["ada@again.example"]
    assert not list((agent.spool / "active").iterdir())


def test_file_that_its_owner_removed_does_not_come_back_from_the_copy(agent: Agent, relay: Relay) -> None:
    agent.start(failpoint="file-taken:4")
    _theirs(agent, "job").rename(agent.spool / "new" / "job")
    agent.died()
    claimed, copy = agent.spool / "new/.claim-job", agent.spool / "active/.take-job"
    copied = next(path.relative_to(copy) for path in copy.rglob("*.*") if path.is_file())
    (claimed / copied).unlink()
    (claimed / "job.yaml").unlink(missing_ok=True)
    agent.start()
    wait_for(lambda: "job" in waits(agent))
    assert not (agent.spool / "new/job" / copied).exists()
    assert relay.recipients == []


def _file(path: Path) -> None:
    path.write_bytes(b"left over")


def _folder(path: Path) -> None:
    (path / "deep").mkdir(parents=True)
    (path / "deep" / "file").touch()


def _foreign(path: Path) -> None:
    _folder(path)
    for each in (path, *path.rglob("*")):
        os.chown(each, OTHER, OTHER)
        each.chmod(0o500)


def _link(path: Path) -> None:
    path.symlink_to("/etc")


@pytest.mark.parametrize("plant", [_file, _folder, _foreign, _link])
@pytest.mark.parametrize("place", ["new/.taken-job", "new/.claim-job", "active/.take-job"])
def test_leftover_under_a_hidden_name_keeps_no_upload_from_being_sent(
    agent: Agent, relay: Relay, place: str, plant: Callable[[Path], None]
) -> None:
    agent.start()
    plant(agent.spool / place)
    for round_ in (1, 2):
        agent.drop(name := f"job{'' if round_ == 1 else '.2'}", [f"ada@round{round_}.example"])
        assert agent.wait_state(name, "finished")["counts"]["sent"] == 1
    assert relay.recipients == ["ada@round1.example", "ada@round2.example"]
    assert os.path.lexists(agent.spool / place), "it is nobody's to remove while the agent runs"
    assert agent.events("agent.task_failed") == []
    assert agent.stop() == 0


@pytest.mark.parametrize("plant", [_file, _folder, _foreign, _link])
def test_leftover_of_a_pickup_keeps_no_message_file_from_being_sent(
    agent: Agent, relay: Relay, plant: Callable[[Path], None]
) -> None:
    agent.start()
    file = agent.spool / "tmp" / "mail.eml"
    file.write_bytes(b"X-Sender: a@b.example\nX-Receiver: ada@one.example\n" + MESSAGE)
    found = file.stat()
    plant(agent.spool / "new" / f".picked-{found.st_ino:x}-{found.st_mtime_ns % 2**64:x}-mail")
    plant(agent.spool / "new" / ".pickup-mail.eml")
    file.rename(agent.spool / "new" / "mail.eml")
    assert agent.wait_state("mail", "finished")["counts"]["sent"] == 1
    assert relay.recipients == ["ada@one.example"]
    assert agent.events("agent.task_failed") == []


def test_job_whose_upload_is_killed_beside_a_leftover_is_found_by_its_name_again(agent: Agent, relay: Relay) -> None:
    agent.start(failpoint="after-accept")
    _folder(agent.spool / "new/.claim-job")
    agent.drop("job", ["ada@one.example"])
    agent.died()
    assert len(list((agent.spool / "new").glob(".claim-~*~job"))) == 1
    agent.start()
    assert agent.wait_state("job", "finished")["counts"]["sent"] == 1
    agent.drop("later", ["ada@later.example"])
    agent.wait_state("later", "finished")
    assert relay.recipients == ["ada@one.example", "ada@later.example"]
