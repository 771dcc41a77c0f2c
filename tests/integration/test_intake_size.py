"""A message over `intake.max_message`: refused by its size, counted in bytes read and not in seconds."""

import hashlib
import os
import signal
from pathlib import Path

import pytest

from spoold.core.seal import format_seal
from tests.servers.agent import Agent, wait_for
from tests.servers.relay import Relay
from tests.servers.upload import waits

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


def give_away(job: Path, owner: str) -> None:
    """Make another user the owner of the upload, if that is who it is."""
    if owner == "another user":
        if os.geteuid() != 0:
            pytest.skip("only root can give files to another user")
        for path in (job, *job.rglob("*")):
            os.chown(path, 23009, -1)


def assert_refused_unread(agent: Agent, job: Path) -> None:
    """Handed over, the job is rejected for its message of a gibibyte, and hardly a byte is read or written for that."""
    before = moved(agent)
    job.rename(agent.spool / "new" / job.name)
    status = agent.wait_state(job.name, "rejected")
    after = moved(agent)
    assert status["errors"] == [f"message.eml: has {HUGE} bytes, more than intake.max_message (50000000)"]
    assert after["rchar"] - before["rchar"] < LITTLE
    assert after["wchar"] - before["wchar"] < LITTLE


OWNERS = ["the agent's user", "another user"]


@pytest.mark.parametrize("owner", OWNERS)
def test_shared_message_of_a_gigabyte_is_refused_without_being_read(agent: Agent, relay: Relay, owner: str) -> None:
    agent.start()
    job = agent.write_job(agent.spool / "tmp" / "large", ["nobody", "ada@one.example"])
    grow(job / "message.eml")
    give_away(job, owner)
    assert_refused_unread(agent, job)
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


def seal(job: Path, **wrong: str) -> None:
    """Seal the folder by what is in it; `wrong` are hashes of files that are too large to be hashed here."""
    files = {str(path.relative_to(job)): path for path in job.rglob("*") if path.is_file()}
    hashes = {
        name: wrong.get(path.stem) or hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()
    }
    (job / "SHA256SUMS").write_text(format_seal(hashes))


@pytest.mark.parametrize("owner", OWNERS)
def test_sealed_upload_whose_shared_message_is_too_large_is_refused_at_once_whatever_its_hash(
    agent: Agent, relay: Relay, owner: str
) -> None:
    agent.start()
    job = agent.write_job(agent.spool / "tmp" / "sealed", ["ada@one.example"])
    grow(job / "message.eml")
    seal(job, message="0" * 64)
    give_away(job, owner)
    assert_refused_unread(agent, job)
    assert relay.accepted == []


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("extra", [0, 600], ids=["beside the others", "in a process of its own"])
@pytest.mark.parametrize("sealed", [False, True], ids=["renamed in", "sealed"])
def test_recipients_own_message_of_a_gigabyte_fails_that_recipient_alone_without_being_read(
    agent: Agent, relay: Relay, owner: str, extra: int, sealed: bool
) -> None:
    count = 2000 if extra else 3
    rows = "".join(f"r{number}@one.example,,{'x' * extra}\n" for number in range(count))
    agent.start()
    job = agent.write_job(
        agent.spool / "tmp" / "own",
        f"address,message,note\nada@one.example,messages/huge.eml,\n{rows}",
        files={"messages/huge.eml": b"From: <a@b.example>\n\n"},
    )
    grow(job / "messages/huge.eml")
    if sealed:
        seal(job, huge="0" * 64)
    give_away(job, owner)
    before = moved(agent)
    job.rename(agent.spool / "new" / "own")
    status = agent.wait_state("own", "finished")
    after = moved(agent)
    assert (status["counts"]["sent"], status["counts"]["failed"], status["total"]) == (count, 1, count + 1)
    [ada] = [row for row in agent.recipients("own") if row["address"] == "ada@one.example"]
    assert (ada["state"], ada["dsn_status"]) == ("failed", "5.6.0")
    assert ada["diagnostic"] == f"messages/huge.eml: has {HUGE} bytes, more than intake.max_message (50000000)"
    assert after["rchar"] - before["rchar"] < 2 * LITTLE
    assert after["wchar"] - before["wchar"] < 2 * LITTLE
    assert sorted(relay.recipients) == sorted(f"r{number}@one.example" for number in range(count))
    assert agent.events("agent.task_failed") == []


def test_repeated_upload_is_a_duplicate_though_its_largest_message_was_not_read_and_the_limit_was_raised_since(
    agent: Agent, relay: Relay
) -> None:
    recipients = "address,message\nada@one.example,large.eml\nbob@one.example,small.eml\n"
    large = b"From: <a@b.example>\nSubject: large\n\n" + b"line of text\n" * 100_000

    def drop(name: str, text: bytes = b"From: <a@b.example>\nSubject: small\n\n") -> None:
        agent.drop(name, recipients, message=None, files={"large.eml": large, "small.eml": text})

    agent.configure(relay.port, config={"intake": {"settle": "1s", "max_message": "1MB"}})
    agent.start()
    drop("first")
    assert agent.wait_state("first", "finished")["counts"]["failed"] == 1
    drop("second")
    assert agent.wait_state("second", "rejected")["reason"] == "duplicate of first"
    agent.configure(relay.port, config={"intake": {"settle": "1s", "max_message": "2MB"}})
    os.kill(agent.pid, signal.SIGHUP)
    wait_for(lambda: agent.events("agent.reloaded"))
    drop("third")
    assert agent.wait_state("third", "rejected")["reason"] == "duplicate of first"
    drop("other", b"From: <a@b.example>\nSubject: other\n\n")
    assert agent.wait_state("other", "finished")["counts"]["sent"] == 2
    assert relay.recipients.count("bob@one.example") == 2


def test_large_file_of_a_sealed_upload_that_is_no_message_has_to_match_its_hash(agent: Agent, relay: Relay) -> None:
    agent.configure(relay.port, config={"intake": {"settle": "1s", "max_message": "100kB"}})
    agent.start()
    job = agent.write_job(agent.spool / "tmp" / "job", ["ada@one.example"], files={"brochure.pdf": bytes(200_000)})
    seal(job)
    with (job / "brochure.pdf").open("r+b") as file:
        file.write(b"%PDF")
    job.rename(agent.spool / "new" / "job")
    wait_for(lambda: "the rest of brochure.pdf" in waits(agent).get("job", ""))
    assert relay.accepted == []
    with (agent.spool / "new/job/brochure.pdf").open("r+b") as file:
        file.write(bytes(4))
    agent.wait_state("job", "finished")
    assert relay.recipients == ["ada@one.example"]


def test_recipients_are_counted_by_rows_and_not_by_lines(agent: Agent, relay: Relay) -> None:
    agent.configure(relay.port, config={"intake": {"settle": "1s", "max_recipients": 3}})
    agent.start()
    rows = [f'r{number}@one.example,"one\ntwo\nthree"\n' for number in range(4)]
    agent.drop("enough", "address,note\n" + "".join(rows[:3]))
    agent.drop("many", "address,note\n" + "".join(rows))
    assert agent.wait_state("enough", "finished")["counts"]["sent"] == 3
    told = "more than 3 recipients (intake.max_recipients); split the job"
    assert agent.wait_state("many", "rejected")["errors"] == [told]
