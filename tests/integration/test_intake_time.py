"""How long one upload may keep intake busy (`intake.max_time`), and that nobody waits for it meanwhile."""

import hashlib
import os
from pathlib import Path

import pytest

from spoold.core.seal import format_seal
from tests.servers.agent import Agent, wait_for
from tests.servers.relay import Relay

#: A sparse file of this size takes no room, and minutes to read.
ENDLESS = 1 << 40
OVERTIME = "reading it took longer than 2 s (intake.max_time); split the job, or raise that limit"


def write_endless(agent: Agent, name: str, owner: int | None = None, *, sealed: bool = False) -> Path:
    """A job in tmp/ with a file that nobody gets, and that is read all the same: for a seal, or to know it again."""
    job = agent.write_job(agent.spool / "tmp" / name, ["ada@one.example"], files={"attic.bin": b""})
    attic = job / "attic.bin"
    os.truncate(attic, ENDLESS)
    if sealed:
        hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in job.iterdir() if path != attic}
        (job / "SHA256SUMS").write_text(format_seal({**hashes, attic.name: "0" * 64}))
    if owner is not None:
        for path in (job, *job.iterdir()):
            os.chown(path, owner, -1)
    return job


def hand_over(agent: Agent, job: Path) -> None:
    job.rename(agent.spool / "new" / job.name)


@pytest.fixture
def limited(agent: Agent, relay: Relay) -> Agent:
    agent.configure(relay.port, config={"intake": {"settle": "1s", "max_time": "2s"}})
    return agent.start()


@pytest.mark.parametrize("sealed", [True, False], ids=["checking its seal", "hashing it"])
def test_upload_that_takes_too_long_is_rejected_and_small_ones_go_on_meanwhile(
    limited: Agent, relay: Relay, sealed: bool
) -> None:
    hand_over(limited, write_endless(limited, "endless", sealed=sealed))
    wait_for(lambda: limited.events("upload.seen"), what="the upload to be seen")
    limited.drop("small", ["bob@one.example"])
    limited.wait_state("small", "finished")
    assert limited.status("endless") is None, "the small one waited for it"
    assert limited.wait_state("endless", "rejected")["errors"] == [OVERTIME]
    assert relay.recipients == ["bob@one.example"]
    # What was rejected is nobody's twin, and is all there.
    assert (limited.spool / "done/endless/attic.bin").stat().st_size == ENDLESS
    limited.drop("endless", ["ada@one.example"])
    limited.wait_state("endless.2", "finished")
    assert limited.events("agent.task_failed") == []


def test_list_that_takes_too_long_to_examine_is_rejected(limited: Agent, relay: Relay) -> None:
    limited.drop("long", [f"r{number}@one.example" for number in range(1_000_000)])
    status = limited.wait_state("long", "rejected", 30)
    assert (status["errors"], sum(status["counts"].values())) == ([OVERTIME], 0)
    assert relay.accepted == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_large_upload_of_one_user_waits_for_no_other_users(agent: Agent, relay: Relay) -> None:
    agent.start()
    hand_over(agent, write_endless(agent, "endless", 23009, sealed=True))
    wait_for(lambda: agent.events("upload.seen"), what="the upload to be seen")
    agent.drop("large", [f"r{number}@one.example" for number in range(5000)])
    agent.wait_state("large", "finished")
    assert agent.status("endless") is None
    assert len(relay.recipients) == 5000
