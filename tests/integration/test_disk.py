"""A disk that fills up while jobs are sent: a small file system of its own as the spool."""

import contextlib
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.servers.agent import Agent, wait_for
from tests.servers.audit import audit, connect, recount, wait_at_rest
from tests.servers.disk import small_disk
from tests.servers.relay import Command, Hang, Relay, Rule

MIB = 1 << 20
SIZE = 64
ADDRESSES = [f"to{n}@one.example" for n in range(40)]
HOLD = {"on_uncertain": "hold"}


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """The folder of an agent whose spool is a file system of 64 MiB."""
    with small_disk(tmp_path / "spool", SIZE):
        yield tmp_path


@pytest.fixture
def agent(small: Path, relay: Relay) -> Iterator[Agent]:
    with Agent(small, relay.port, relay={"connections": 2, "recipients_per_message": 1}) as process:
        yield process


def fill(agent: Agent, left: int) -> None:
    """Leave only `left` bytes free on the spool's file system."""
    ballast = agent.spool / "tmp" / f"ballast-{left}"
    found = os.statvfs(agent.spool)
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        os.posix_fallocate(file.fileno(), 0, max(found.f_bavail * found.f_frsize - left, 1))
        while left == 0:  # what the agent took and gave back meanwhile, too, down to the last page
            file.seek(0, os.SEEK_END)
            file.write(b"x" * 4096)


def make_room(agent: Agent) -> None:
    for ballast in (agent.spool / "tmp").glob("ballast-*"):
        ballast.unlink()


def transactions(relay: Relay) -> int:
    return sum(line.text.startswith("MAIL") for line in tuple(relay.commands))


def test_full_disk_stops_sending_and_costs_nothing(agent: Agent, relay: Relay) -> None:
    relay.rules.append(Rule(Command.DOT, Hang(), nth=6))
    agent.start()
    agent.drop("job", ADDRESSES, manifest=HOLD)
    relay.wait_for(lambda _: transactions(relay) == 7)
    fill(agent, 12 * MIB)
    [event] = wait_for(lambda: agent.events("disk.full"))
    assert 0 < event["free"] < 32 * MIB
    relay.rules.clear()
    relay.release()

    # The open ones end and are recorded; none begins.
    status = agent.wait_state("job", "waiting")
    assert (status["reason"], status["counts"]["sent"], status["counts"]["queued"]) == ("disk", 7, 33)
    # Those that were next in line had said MAIL; their messages do not follow.
    assert len(relay.accepted) == 7
    assert transactions(relay) <= 7 + 2
    wait_for(lambda: "nearly full" in str((agent.state() or {})["warnings"]), what="the warning in SPOOL/status.json")
    # An upload waits, and says why.
    agent.drop("upload", ["bob@one.example"], manifest=HOLD)
    [problem] = wait_for(lambda: agent.events("upload.problem"))
    assert (problem["upload"], "nearly full" in problem["problem"]) == ("upload", True)
    assert (agent.spool / "new/upload").is_dir()
    assert len(relay.accepted) == 7

    make_room(agent)
    wait_at_rest(agent, ["job", "upload"])
    assert agent.events("disk.free")
    assert agent.stop() == 0
    found = audit(agent, relay.accepted, {"job": ADDRESSES, "upload": ["bob@one.example"]})
    assert found.uncertain == set()
    assert relay.violations == []


def full_with_open_transactions(agent: Agent, relay: Relay) -> None:
    """Two recipients that the relay has taken, and not a byte left to write that down."""
    relay.rules.append(Rule(Command.DOT, Hang(accept=True), nth=6))
    agent.start()
    agent.drop("job", ADDRESSES, manifest=HOLD)
    relay.wait_for(lambda relay: len(relay.accepted) == 7)
    fill(agent, 12 * MIB)
    wait_for(lambda: agent.events("disk.full"))
    fill(agent, 0)
    relay.rules.clear()
    relay.release()
    # That nothing at all is left is what the database says, not the look at the disk before.
    wait_for(lambda: [event["free"] for event in agent.events("disk.full")][1:] == [0], what="a full database")


def test_outcomes_wait_for_room_when_not_a_byte_can_be_written(agent: Agent, relay: Relay) -> None:
    full_with_open_transactions(agent, relay)
    with closing(connect(agent)) as database:
        # The two that were open, and those next in line behind them.
        assert 2 <= database.execute("SELECT count(*) FROM claim").fetchone()[0] <= 4
        recount(database)
    assert len(relay.accepted) == 7

    make_room(agent)
    wait_at_rest(agent, ["job"])
    assert agent.stop() == 0
    found = audit(agent, relay.accepted, {"job": ADDRESSES})
    assert found.uncertain == set()
    assert len(relay.accepted) == len(ADDRESSES)
    assert relay.violations == []


def test_kill_on_a_full_disk_leaves_in_doubt_only_what_could_not_be_recorded(agent: Agent, relay: Relay) -> None:
    full_with_open_transactions(agent, relay)
    agent.kill()
    # Nor can a new process work there: it must not send what it could not record.
    agent.start(wait=False)
    wait_for(lambda: agent.events("disk.full") or agent.process.poll() is not None, what="an answer")  # type: ignore[union-attr]
    assert len(relay.accepted) == 7
    agent.kill()
    make_room(agent)
    agent.start()
    wait_at_rest(agent, ["job"])
    assert agent.stop() == 0
    found = audit(agent, relay.accepted, {"job": ADDRESSES})
    assert 2 <= len(found.uncertain) <= 4
    assert relay.violations == []
