"""Of another user's upload only what the job names is copied, and nothing that would fill the disk."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from spoold.intake.room import Room
from spoold.storage.files import Files
from spoold.storage.spooldir import Spool
from tests.servers.agent import MESSAGE, Agent, wait_for
from tests.servers.relay import Relay
from tests.servers.upload import waits

OTHER = 12345
MIB = 1024 * 1024

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


def _give(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, OTHER, OTHER)


def _hole(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


@root_only
def test_file_that_nobody_gets_is_not_copied_and_counts_for_the_same_content(agent: Agent, relay: Relay) -> None:
    agent.start()
    rows = "address,message\nada@one.example,messages/1.eml\n"
    files = {"messages/1.eml": MESSAGE, "messages/2.eml": MESSAGE, "unused/note.txt": b"x"}
    for name, size in (("first", 300 * MIB), ("same", 300 * MIB), ("other", 301 * MIB)):
        folder = agent.write_job(agent.spool / "tmp" / name, rows, message=None, files=files)
        _hole(folder / "extra.bin", size)
        if name != "same":
            _give(folder)
        folder.rename(agent.spool / "new" / name)
        state = "rejected" if name == "same" else "finished"
        status = agent.wait_state(name, state)
        if name == "same":
            assert status["errors"] == ["duplicate of first"], "moved or copied, it is the same content"
        else:
            there = {path.name for path in (agent.spool / "done" / name).rglob("*") if "report" not in path.parts}
            assert {"job.yaml", "recipients.csv", "1.eml"} <= there
            assert not there & {"extra.bin", "2.eml", "note.txt"}
            assert "messages/2.eml" in " ".join(status["warnings"])
    assert relay.recipients == ["ada@one.example"] * 2


@root_only
def test_few_small_files_that_nobody_gets_go_along(agent: Agent, relay: Relay) -> None:
    agent.start()
    folder = agent.write_job(agent.spool / "tmp" / "job", files={"README": b"how it was made", "old/1.eml": MESSAGE})
    _give(folder)
    folder.rename(agent.spool / "new" / "job")
    agent.wait_state("job", "finished")
    assert (agent.spool / "done/job/README").read_bytes() == b"how it was made"
    assert (agent.spool / "done/job/old/1.eml").read_bytes() == MESSAGE


@root_only
def test_upload_that_would_fill_the_disk_waits_and_is_not_copied_and_others_are_sent(
    agent: Agent, relay: Relay
) -> None:
    found = os.statvfs(agent.root)
    agent.start()
    huge = agent.write_job(agent.spool / "tmp" / "huge", ["ada@huge.example"], manifest={"recipients": "list.txt"})
    _hole(huge / "list.txt", found.f_bavail * found.f_frsize + MIB)
    with (huge / "list.txt").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\n")
    _give(huge)
    (huge / "READY").touch()
    huge.rename(agent.spool / "new" / "huge")
    wait_for(lambda: "the disk has too little room" in waits(agent).get("huge", ""))
    assert not list((agent.spool / "active").iterdir()), "nothing of it was copied"
    theirs = agent.write_job(agent.spool / "tmp" / "theirs", ["ada@theirs.example"])
    _give(theirs)
    theirs.rename(agent.spool / "new" / "theirs")
    agent.drop("own", ["ada@own.example"])
    agent.wait_state("own", "finished")
    agent.wait_state("theirs", "finished")
    assert sorted(relay.recipients) == ["ada@own.example", "ada@theirs.example"]
    assert agent.events("disk.full") == []


class Small(Files):
    free = 100

    def free_bytes(self, fd: int) -> int:
        return self.free


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    Spool.create(tmp_path)
    spool = Spool(tmp_path, Small())
    yield Room(spool, 40)
    spool.close()


def test_room_that_is_promised_is_nobody_elses_until_it_is_released(room: Room) -> None:
    assert room.lacks(1, 40) is None
    assert "20 bytes" not in (told := room.lacks(2, 30) or "")
    assert told == (
        "the disk has too little room: 30 bytes of it are to be copied, 60 are free, and 40 must stay so;"
        " it is taken when there is room"
    )
    assert room.lacks(1, 60) is None, "what is asked again is not promised twice"
    assert room.lacks(3, 0) is None or Small.free - 60 <= 40
    room.release(1)
    assert room.lacks(2, 30) is None


def test_nothing_is_taken_below_the_reserve_and_many_who_ask_at_once_get_no_more_than_there_is(room: Room) -> None:
    granted: list[int] = []

    def ask(number: int) -> None:
        if room.lacks(number, 10) is None:
            granted.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(granted) == 6
    for number in granted:
        room.release(number)
    Small.free = 39
    try:
        assert room.lacks(99, 0) == "the disk is nearly full; it is taken when there is room"
    finally:
        Small.free = 100
