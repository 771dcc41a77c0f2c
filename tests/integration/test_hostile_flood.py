"""Drops of full size: what the defaults allow and one recipient more, with other jobs beside."""

import os
import time
from itertools import pairwise
from pathlib import Path

import pytest

from tests.servers.agent import MESSAGE, Agent, wait_for
from tests.servers.relay import Relay
from tests.servers.upload import waits

#: Seconds that another's job may be delayed at most.
SECONDS = 10.0


def small_job(agent: Agent, relay: Relay, number: int) -> float:
    """Drop another uploader's job; returns after how many seconds it was sent."""
    begun = time.monotonic()
    to = f"ada@small{number}.example"
    agent.drop(f"small-{number}", [to])
    relay.wait_for(lambda relay: to in relay.recipients, 3 * SECONDS)
    return time.monotonic() - begun


def delays(agent: Agent, relay: Relay, name: str, timeout: float) -> list[float]:
    """How long small jobs took, one every second until the job `name` has a report."""
    found: list[float] = []
    due = time.monotonic()
    end = due + timeout

    def one() -> bool:
        nonlocal due
        if agent.status(name) is not None:
            return True
        if time.monotonic() >= due:
            found.append(small_job(agent, relay, len(found)))
            due = time.monotonic() + 1.0
        return False

    wait_for(one, end - time.monotonic(), f"the report of {name}")
    return found


def write_crowd(agent: Agent, recipients: int) -> Path:
    """A held job of so many recipients, below tmp/."""
    folder = agent.write_job(agent.spool / "tmp" / "crowd", "address\n", files={"HOLD": b""})
    with (folder / "recipients.csv").open("a", encoding="ascii") as file:
        file.writelines(f"r{number}@crowd{number % 1000}.example\n" for number in range(recipients))
    return folder


@pytest.mark.parametrize("recipients", [2_000_000, 2_000_001])
def test_two_million_recipients_are_taken_and_one_more_is_refused_while_others_are_sent_to(
    recipients: int, agent: Agent, relay: Relay
) -> None:
    folder = write_crowd(agent, recipients)
    agent.start()
    agent.drop("beside", [f"b{number}@beside.example" for number in range(500)], manifest={"rate": "50/s"})
    relay.wait_for(lambda relay: len(relay.accepted) >= 3)
    folder.rename(agent.spool / "new" / "crowd")
    found = delays(agent, relay, "crowd", 120)
    assert max(found) < SECONDS, found
    status = agent.status("crowd")
    assert status is not None
    if recipients > 2_000_000:
        assert status["state"] == "rejected"
        assert status["errors"] == ["more than 2000000 recipients (intake.max_recipients); split the job"]
        assert status["total"] == 0
    else:
        assert len(found) >= 3, "it was over too soon to be in anybody's way"
        assert (status["state"], status["errors"], status["total"]) == ("held", [], recipients)
        assert status["counts"]["queued"] == recipients
    agent.wait_state("beside", "finished")
    at = [mail.at for mail in relay.accepted if mail.recipients[0].endswith("@beside.example")]
    assert max(later - earlier for earlier, later in pairwise(sorted(at))) < SECONDS
    assert sorted(relay.recipients) == sorted(
        [f"b{number}@beside.example" for number in range(500)]
        + [f"ada@small{number}.example" for number in range(len(found))]
    )
    assert agent.events("agent.task_failed") == []


def test_hundred_thousand_files_in_one_job_are_taken_and_delay_another_job_by_seconds_at_most(
    agent: Agent, relay: Relay
) -> None:
    recipients = "address,message\n" + "".join(f"r{number}@many.example,heap/{number}.eml\n" for number in range(2000))
    many = agent.write_job(agent.spool / "tmp" / "many", recipients, message=None)
    (many / "heap").mkdir()
    heap = os.open(many / "heap", os.O_RDONLY)
    for number in range(100_000):
        file = os.open(f"{number}.eml", os.O_CREAT | os.O_WRONLY, dir_fd=heap)
        os.write(file, MESSAGE)
        os.close(file)
    os.close(heap)
    agent.start()
    many.rename(agent.spool / "new" / "many")
    found = delays(agent, relay, "many", 120)
    assert len(found) >= 3, "it was over too soon to be in anybody's way"
    assert max(found) < SECONDS, found
    status = agent.wait_state("many", "finished", 60)
    assert status["counts"]["sent"] == status["total"] == 2000
    assert "98000 message file(s) belong to no recipient" in status["warnings"][0]
    assert len(set(relay.recipients)) == len(relay.recipients) == 2000 + len(found)
    assert agent.events("agent.task_failed") == []
    assert agent.stop() == 0


def test_ten_thousand_empty_folders_delay_a_job_by_seconds_at_most_for_as_long_as_they_stand(
    agent: Agent, relay: Relay
) -> None:
    agent.start()
    for number in range(10_000):
        (agent.spool / "new" / f"empty-{number}").mkdir()
    found = [small_job(agent, relay, 0)]
    wait_for(lambda: len(waits(agent)) >= 10_000, 30, "all the folders in status.json")
    found += [small_job(agent, relay, number) for number in range(1, 8)]
    assert max(found) < SECONDS, found
    assert waits(agent)["empty-9999"] == "job.yaml"
    assert agent.events("agent.task_failed") == []
    assert agent.stop() == 0
