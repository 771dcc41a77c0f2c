"""Faults of the system itself under the running agent: calls that fail, writes that are short, no inode left.

The calls of the real process fail by strace; a small file system runs out of inodes; a limit of a file's size cuts writes.
"""

import contextlib
import os
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from spoold.storage.files import Files
from tests.servers.agent import MESSAGE, Agent, wait_for
from tests.servers.audit import at_rest, audit, no_leftovers, wait_at_rest
from tests.servers.disk import small_disk
from tests.servers.inprocess import capture, live
from tests.servers.relay import Relay
from tests.servers.tracer import failing
from tests.servers.upload import PATIENT, drop_pair, waits

RENAME = "renameat,renameat2"


def jobs() -> dict[str, list[str]]:
    return {
        "beside": [f"b{number}@beside.example" for number in range(120)],
        **{name: [f"{name}{number}@one.example" for number in range(4)] for name in ("one", "two")},
    }


def sent(relay: Relay, job: str) -> int:
    return sum(to.endswith(f"@{job}.example") for to in relay.recipients)


def assert_nothing_lost(agent: Agent, relay: Relay, names: Sequence[str] = ("beside", "one", "two")) -> None:
    """Everybody once, nobody in doubt, nothing that looks like a bug."""
    wait_at_rest(agent, names, 60)
    assert agent.events("agent.task_failed") == []
    assert agent.stop() == 0
    assert audit(agent, relay.accepted, {name: jobs()[name] for name in names}).uncertain == set()
    assert relay.violations == []


def send_beside(agent: Agent, relay: Relay, rate: str = "20/s", count: int = 3) -> None:
    """Start the agent with a job that it sends at this rate, and see so many messages of it through."""
    agent.start()
    agent.drop("beside", jobs()["beside"], manifest={**PATIENT, "rate": rate})
    relay.wait_for(lambda relay: len(relay.accepted) >= count)


@pytest.mark.parametrize(
    ("place", "calls", "error"),
    [
        ("new", "openat", "EIO"),
        ("new", "openat", "EMFILE"),
        ("new", RENAME, "EIO"),
        ("new", "fsync", "EIO"),
        ("active", "openat", "ENFILE"),
        ("active", RENAME, "ENOSPC"),
        ("active", "fsync", "EIO"),
        ("active", "mkdirat", "ENOSPC"),
        ("done", RENAME, "EDQUOT"),
        ("done", "fsync", "EIO"),
        ("", "openat", "EMFILE"),
        (".spoold/spool.db-wal", "pwrite64", "ENOSPC"),
    ],
)
def test_system_call_that_fails_for_a_while_costs_nothing_and_is_made_good_without_a_restart(
    place: str, calls: str, error: str, agent: Agent, relay: Relay
) -> None:
    send_beside(agent, relay)
    with failing(agent, agent.spool / place, calls, error) as tracer:
        drop_pair(agent, jobs())
        # A move into done/ is synced once; all else is tried again for as long as it fails.
        wait_for(lambda: tracer.failed >= (1 if place == "done" else 3), 30, "calls that fail")
        if "spool.db" in place:
            [full] = wait_for(lambda: agent.events("disk.full"))
            assert full["level"] == "error"
        else:
            # Whom the fault does not concern is sent to.
            before = sent(relay, "beside")
            relay.wait_for(lambda relay: sent(relay, "beside") >= min(before + 10, 120), 20)
    assert_nothing_lost(agent, relay)


# --- short writes -----------------------------------------------------------------------------------------------------


async def test_writes_and_reads_that_do_a_part_of_what_was_asked_for_leave_every_file_whole(
    agent: Agent, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every write of the seam takes seven octets at the most, every read gives five hundred."""
    log = capture(monkeypatch)
    write, read = os.write, os.read
    calls = {"write": 0, "read": 0}

    def short_write(fd: int, data: bytes) -> int:
        calls["write"] += 1
        return write(fd, bytes(data[:7]))

    def short_read(fd: int, size: int) -> bytes:
        calls["read"] += 1
        return read(fd, min(size, 500))

    drop_pair(agent, jobs())
    large = MESSAGE + b"a line of the text\n" * 300
    addresses = ["ada@copied.example"]
    agent.drop("copied", addresses, manifest=PATIENT, message=large, files={"READY": b""})
    folder = agent.spool / "new/copied"
    if os.geteuid() == 0:
        for path in (folder, *folder.iterdir()):
            os.chown(path, 23011, -1)
    monkeypatch.setattr("spoold.storage.files.os.write", short_write)
    monkeypatch.setattr("spoold.storage.files.os.read", short_read)
    names = ("one", "two", "copied")
    ended = await live(agent, Files(), lambda: all(at_rest(agent, name) for name in names), 30)
    monkeypatch.undo()
    assert ended is None
    assert min(calls.values()) > 100
    wanted = {"one": jobs()["one"], "two": jobs()["two"], "copied": addresses}
    assert audit(agent, relay.accepted, wanted).uncertain == set()
    assert (agent.spool / "done/copied/message.eml").read_bytes() == large
    [mail] = [mail for mail in relay.accepted if mail.recipients == tuple(addresses)]
    assert mail.data.replace(b"\r\n", b"\n").endswith(large.partition(b"\n\n")[2])
    assert log.of("agent.task_failed", "report.failed") == []


def test_write_that_the_system_cuts_short_and_then_refuses_ends_the_agent_and_loses_nothing(
    agent: Agent, relay: Relay
) -> None:
    """A limit of a file's size: the last write below it is short, the next one fails (EFBIG)."""
    agent.configure(relay.port, relay={"connections": 2, "recipients_per_message": 1})
    send_beside(agent, relay, "50/s", 10)
    log = (agent.spool / ".spoold/spool.db-wal").stat().st_size
    resource.prlimit(agent.pid, resource.RLIMIT_FSIZE, (log + 5_000, resource.RLIM_INFINITY))
    assert agent.died(30) == 1
    [failed] = agent.events("agent.failed")
    assert "spool.db: " in failed["error"]
    assert "Traceback" not in agent.log_file.read_text()
    before = len(relay.accepted)
    assert before < 120
    agent.start()
    wait_at_rest(agent, ["beside"], 30)
    assert agent.stop() == 0
    found = audit(agent, relay.accepted, {"beside": jobs()["beside"]})
    # Two transactions open, and on each connection the next in line.
    assert len(found.uncertain) <= 4
    no_leftovers(agent.spool, ["beside"])


# --- a full inode table -----------------------------------------------------------------------------------------------


@pytest.fixture
def inodes(tmp_path: Path, relay: Relay) -> Iterator[Agent]:
    """An agent whose spool has room for bytes, and for 300 files."""
    with small_disk(tmp_path / "spool", 128, inodes=300), Agent(tmp_path, relay.port) as agent:
        yield agent


def use_up(agent: Agent) -> int:
    """Make files until no more can be made; returns how many."""
    heap = agent.spool / "tmp" / "heap"
    heap.mkdir(exist_ok=True)
    number = len(list(heap.iterdir()))
    with contextlib.suppress(OSError):
        while True:
            (heap / str(number)).touch(exist_ok=False)
            number += 1
    assert os.statvfs(agent.spool).f_favail == 0
    assert os.statvfs(agent.spool).f_bavail > 8_000
    return number


def free(agent: Agent) -> None:
    for path in (agent.spool / "tmp" / "heap").iterdir():
        path.unlink()


def test_full_inode_table_leaves_uploads_where_they_are_and_what_was_taken_is_sent_on(
    inodes: Agent, relay: Relay
) -> None:
    agent = inodes
    send_beside(agent, relay)
    (agent.spool / "tmp" / "later").mkdir()
    agent.write_job(agent.spool / "tmp/later/one", jobs()["one"], manifest=PATIENT)
    agent.write_job(agent.spool / "tmp/later/two", jobs()["two"], manifest=PATIENT)
    use_up(agent)
    for name in ("one", "two"):
        (agent.spool / "tmp/later" / name).rename(agent.spool / "new" / name)
    wait_for(lambda: [e for e in agent.events("upload.problem") if "No space left on device" in e["problem"]])
    before = sent(relay, "beside")
    use_up(agent)
    relay.wait_for(lambda relay: sent(relay, "beside") >= min(before + 20, 120), 20)
    # The reports stand still, and are told of.
    wait_for(lambda: [e for e in agent.events() if e["event"] in ("report.failed", "spool.failed")])
    assert sent(relay, "one") == 0
    free(agent)
    assert_nothing_lost(agent, relay)
    assert waits(agent) == {}


def test_start_with_a_full_inode_table_ends_with_a_line_that_says_so_and_the_next_one_goes_on(
    inodes: Agent, relay: Relay
) -> None:
    agent = inodes
    send_beside(agent, relay)
    assert agent.stop() == 0
    use_up(agent)
    agent.start(wait=False)
    assert agent.died() == 1
    [line] = agent.log_file.read_text().splitlines()
    assert line == (
        f"spoold: {agent.spool}/.spoold/spool.db: unable to open database file; expected a folder in which files can be"
        " made: the rights to it, free space, free inodes (`df -i`)"
    )
    free(agent)
    agent.start()
    assert_nothing_lost(agent, relay, ["beside"])
