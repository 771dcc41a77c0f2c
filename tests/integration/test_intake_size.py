"""A message over `intake.max_message`: refused by its size, counted in bytes read and not in seconds."""

import os
from pathlib import Path

import pytest

from tests.servers.agent import Agent
from tests.servers.relay import Relay

HUGE = 1 << 30
#: Bytes that the agent may read or write for the whole of one job's refusal, its database and reports included.
LITTLE = 32 << 20


def moved(agent: Agent) -> dict[str, int]:
    """Bytes that the process has read and written so far, by whichever call (Linux: proc(5), `io`)."""
    lines = Path(f"/proc/{agent.pid}/io").read_text().splitlines()
    return {key: int(value) for key, value in (line.split(": ") for line in lines) if key in ("rchar", "wchar")}


def grow(path: Path) -> None:
    """Make the file a sparse gibibyte: it takes no room."""
    with path.open("r+b") as file:
        file.truncate(HUGE)


@pytest.mark.parametrize("owner", ["the agent's user", "another user"])
def test_shared_message_of_a_gigabyte_is_refused_without_being_read(agent: Agent, relay: Relay, owner: str) -> None:
    if owner == "another user" and os.geteuid() != 0:
        pytest.skip("only root can give files to another user")
    agent.start()
    job = agent.write_job(agent.spool / "tmp" / "large", ["nobody", "ada@one.example"])
    grow(job / "message.eml")
    if owner == "another user":
        for path in (job, *job.iterdir()):
            os.chown(path, 23009, -1)
    before = moved(agent)
    job.rename(agent.spool / "new" / "large")
    status = agent.wait_state("large", "rejected")
    after = moved(agent)
    assert status["errors"] == [f"message.eml: has {HUGE} bytes, more than intake.max_message (50000000)"]
    assert after["rchar"] - before["rchar"] < LITTLE
    assert after["wchar"] - before["wchar"] < LITTLE
    assert relay.accepted == []
    left = agent.spool / "done" / "large" / "message.eml"
    assert left.exists() == (owner == "the agent's user")
    # What is refused is nobody's twin: the mended upload is taken.
    agent.drop("large", ["ada@one.example"])
    agent.wait_state("large.2", "finished")
    assert relay.recipients == ["ada@one.example"]


def test_message_too_large_that_nobody_gets_does_not_refuse_the_job_nor_let_a_repeated_upload_through(
    agent: Agent, relay: Relay
) -> None:
    config = {"intake": {"settle": "1s", "max_message": "100kB"}}
    agent.configure(relay.port, config=config)
    agent.start()
    recipients = "address,message\nada@one.example,own.eml\nnobody,\n"
    for name in ("first", "second"):
        job = agent.write_job(
            agent.spool / "tmp" / name, recipients, files={"own.eml": b"From: <a@b.example>\nSubject: own\n\nown\n"}
        )
        with (job / "message.eml").open("r+b") as file:
            file.truncate(200_000)
        job.rename(agent.spool / "new" / name)
        agent.wait_state(name, "finished" if name == "first" else "rejected")
    assert (agent.status("second") or {})["reason"] == "duplicate of first"
    assert relay.recipients == ["ada@one.example"]
