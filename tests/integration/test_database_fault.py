"""The database's own files: damaged while no agent runs, and a disk that fails under the running process."""

import os
import random
import signal
from collections.abc import Callable

import pytest

from spoold.storage.database import DatabaseError
from spoold.storage.files import Files
from tests.servers.agent import Agent
from tests.servers.audit import audit, no_leftovers, wait_at_rest
from tests.servers.inprocess import capture, live
from tests.servers.relay import Command, Hang, Relay, Rule
from tests.servers.tracer import failing

ADDRESSES = [f"to{n}@one.example" for n in range(300)]
PAGE = 4096


def torn(data: bytes) -> bytes:
    return data[: len(data) // 2 + 1000]


def zeroed(data: bytes) -> bytes:
    """Four pages in the middle."""
    middle = len(data) // PAGE // 2 * PAGE
    return data[:middle] + bytes(4 * PAGE) + data[middle + 4 * PAGE :]


def flipped(data: bytes) -> bytes:
    """The head of every third page: one bit a byte."""
    found = bytearray(data)
    for page in range(PAGE * 2, len(data), PAGE * 3):
        for at in range(page, page + 12):
            found[at] ^= 1 << random.Random(at).randrange(8)
    return bytes(found)


@pytest.mark.parametrize("damage", [torn, zeroed, flipped])
async def test_damaged_database_sends_nothing_says_what_to_do_and_is_left_as_it_is(
    damage: Callable[[bytes], bytes], agent: Agent, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = capture(monkeypatch)
    agent.drop("job", ADDRESSES, files={"READY": b"", "HOLD": b""})
    assert await live(agent, Files(), lambda: (agent.spool / "deferred/job/report/recipients.csv").exists()) is None
    database = agent.spool / ".spoold/spool.db"
    whole = database.read_bytes()
    database.write_bytes(damage(whole))
    before = {path.name: path.read_bytes() for path in (agent.spool / ".spoold").iterdir() if path.name != "lock"}
    (agent.spool / "deferred/job/HOLD").unlink()
    del log.lines[:]

    ended = await live(agent, Files(), lambda: False)
    assert isinstance(ended, DatabaseError)
    assert str(ended).startswith(f"{database}: ")
    assert "; to do: " in str(ended)
    assert len(str(ended).splitlines()) == 1
    assert log.lines == []
    assert database.read_bytes() == before["spool.db"]
    assert relay.connections == 0

    # Once a back-up is restored, all goes on.
    for name in ("spool.db-wal", "spool.db-shm"):
        (agent.spool / ".spoold" / name).unlink(missing_ok=True)
    database.write_bytes(whole)
    assert await live(agent, Files(), lambda: (agent.spool / "done/job").exists(), 30) is None
    audit(agent, relay.accepted, {"job": ADDRESSES})


async def test_damage_in_a_large_database_that_no_start_looks_for_ends_the_agent_when_it_is_met(
    agent: Agent, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture(monkeypatch)
    monkeypatch.setattr("spoold.storage.database._CHECKED_WHOLE", 0)
    agent.drop("job", [f"to{n}@one.example" for n in range(3000)], files={"READY": b"", "HOLD": b""})
    assert await live(agent, Files(), lambda: (agent.spool / "deferred/job/report/recipients.csv").exists()) is None
    database = agent.spool / ".spoold/spool.db"
    data = bytearray(database.read_bytes())
    for page in range(0, len(data), PAGE):
        if b"to1500@one.example" in data[page : page + PAGE]:
            data[page : page + PAGE] = b"\xff" * PAGE
    database.write_bytes(data)
    (agent.spool / "deferred/job/HOLD").unlink()

    ended = await live(agent, Files(), lambda: False, 20)
    assert ended is not None
    assert "malformed" in str(ended)
    assert "; to do: " in str(ended)
    assert len(set(relay.recipients)) == len(relay.recipients) < 3000


def test_half_written_end_of_the_log_is_no_damage(agent: Agent, relay: Relay) -> None:
    """What a power cut leaves behind the last commit: the frames that no commit ends count for nothing."""
    agent.drop("job", ADDRESSES[:20], manifest={"on_uncertain": "hold"}, files={"READY": b""})
    agent.start(failpoint="after-outcome", wait=False)
    assert agent.died() == -signal.SIGKILL
    with (agent.spool / ".spoold/spool.db-wal").open("ab") as log:
        log.write(b"\x00" * 24 + os.urandom(3000))
    agent.start()
    wait_at_rest(agent, ["job"])
    assert agent.stop() == 0
    audit(agent, relay.accepted, {"job": ADDRESSES[:20]})


# --- a disk that fails ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "calls", "error"),
    [
        ("spool.db-wal", "fdatasync,fsync", "EIO"),
        ("spool.db-wal", "pwrite64", "EIO"),
        ("spool.db-wal", "pwrite64", "EDQUOT"),
    ],
)
def test_disk_that_fails_under_the_database_ends_the_agent_and_leaves_in_doubt_only_what_was_open(
    file: str, calls: str, error: str, agent: Agent, relay: Relay
) -> None:
    relay.rules.append(Rule(Command.DOT, Hang(), nth=3))
    agent.configure(relay.port, relay={"connections": 2, "recipients_per_message": 5})
    agent.start()
    agent.drop("job", ADDRESSES[:60], manifest={"on_uncertain": "hold"}, files={"READY": b""})
    relay.wait_for(lambda relay: len(relay.accepted) == 2 and sum(line.text == "DATA" for line in relay.commands) >= 3)
    with failing(agent, agent.spool / ".spoold" / file, calls, error):
        relay.rules.clear()
        relay.release()
        assert agent.died() == 1
    [failed] = agent.events("agent.failed")
    assert str(agent.spool / ".spoold/spool.db") in failed["error"]
    assert "Traceback" not in agent.log_file.read_text()
    before = len(relay.accepted)
    assert before <= 5

    agent.start()
    wait_at_rest(agent, ["job"])
    assert agent.stop() == 0
    found = audit(agent, relay.accepted, {"job": ADDRESSES[:60]})
    assert len(found.uncertain) <= 20
    no_leftovers(agent.spool, ["job"])
