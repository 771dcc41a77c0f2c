"""What is claimed, read or in line behind another message still asks whether it may go."""

import os
import time
from pathlib import Path

import pytest

from spoold.storage import journal
from spoold.storage.files import Files
from spoold.storage.store import Store
from tests.servers.agent import Agent, wait_for
from tests.servers.inprocess import capture, live
from tests.servers.relay import Delay, Hang, Relay, Reply, Rule


@pytest.mark.parametrize("control", ["CANCEL", "HOLD"])
def test_message_in_line_does_not_leave_after_an_order(agent: Agent, relay: Relay, control: str) -> None:
    relay.rules.append(Rule("DOT", Hang(), nth=1, times=1))
    agent.configure(relay.port, relay={"connections": 1, "recipients_per_message": 1})
    agent.start()
    agent.drop("job", [f"to{number}@one.example" for number in range(5)])
    # One is in its data, whose end is not answered, and one behind it.
    status = wait_for(lambda: found if (found := agent.status("job")) and found["counts"].get("sending") == 2 else None)
    assert status["total"] == 5
    folder = agent.find("job")
    assert folder is not None
    (folder / control).touch()
    if control == "CANCEL":
        wait_for(lambda: agent.events("job.cancelled"))
    else:
        wait_for(lambda: (agent.status("job") or {}).get("reason") == "holding: the open messages end first")
    relay.release()
    if control == "CANCEL":
        counts = agent.wait_state("job", "cancelled")["counts"]
        assert (counts["sent"], counts["cancelled"]) == (1, 4)
    else:
        counts = agent.wait_state("job", "held")["counts"]
        assert (counts["sent"], counts["queued"]) == (1, 4)
    assert len(relay.accepted) == relay.bodies == 1
    if control == "HOLD":
        folder = agent.find("job")
        assert folder is not None
        (folder / control).unlink()
        agent.wait_state("job", "finished")
        assert sorted(relay.recipients) == [f"to{number}@one.example" for number in range(5)]
        assert {row["attempts"] for row in agent.recipients("job")} == {"1"}


async def test_recipient_that_was_not_granted_is_not_sent_to(
    agent: Agent, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant = journal._grant
    refused: list[int] = []
    open_again = False

    def stingy(connection: object, claim: journal._Claim) -> list[int]:
        """The first recipient that is asked for gets no claim for a while."""
        granted = grant(connection, claim)  # type: ignore[arg-type]
        refused.extend(granted[:1] if not refused else [])
        if open_again or refused[0] not in granted:
            return granted
        connection.execute("DELETE FROM claim WHERE id = ?", refused)  # type: ignore[attr-defined]
        return [id_ for id_ in granted if id_ not in refused]

    monkeypatch.setattr(journal, "_grant", stingy)
    agent.configure(relay.port, relay={"recipients_per_message": 2, "connections": 1})
    agent.drop("job", [f"to{number}@one.example" for number in range(6)])
    before: list[str] = []

    def until() -> bool:
        nonlocal open_again
        if not open_again and len(relay.recipients) >= 5:
            before.extend(relay.recipients)
            open_again = True
        return (agent.spool / "done/job").is_dir()

    assert await live(agent, Files(), until) is None
    assert sorted(before) == [f"to{number}@one.example" for number in range(1, 6)]
    assert sorted(relay.recipients) == [f"to{number}@one.example" for number in range(6)]
    assert {row["state"] for row in agent.recipients("job")} == {"sent"}


class Meddling(Files):
    """Changes a sealed message the moment its upload is claimed: same size, same time, same file."""

    def __init__(self) -> None:
        self.meddled = False

    def rename(self, from_fd: int, name: str, to_fd: int, new_name: str) -> None:
        super().rename(from_fd, name, to_fd, new_name)
        if new_name.startswith(".claim-") and not self.meddled:
            self.meddled = True
            path = Path(f"/proc/self/fd/{to_fd}/{new_name}/message.eml")
            times = path.stat()
            path.write_bytes(path.read_bytes().replace(b"Hello", b"Howdy"))
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


async def test_sealed_content_is_compared_again_once_it_is_taken(
    agent: Agent, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = capture(monkeypatch)
    folder = agent.write_job(agent.spool / "tmp/job")
    assert agent.command("seal", str(folder)).returncode == 0
    folder.rename(agent.spool / "new/job")
    files = Meddling()
    told = "message.eml changed while the upload was being taken"

    def until() -> bool:
        return any(told in fields.get("problem", "") for fields in log.of("upload.problem")) or bool(relay.accepted)

    assert await live(agent, files, until) is None
    assert files.meddled
    assert relay.accepted == []
    assert log.of("job.accepted") == []


async def test_mark_in_the_list_of_attempts_is_set_once_what_lies_before_it_is_durable(
    agent: Agent, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    durable: dict[str, int] = {}
    marks: list[tuple[int, int]] = []

    class Syncing(Files):
        def sync(self, fd: int) -> None:
            super().sync(fd)
            durable[os.readlink(f"/proc/self/fd/{fd}").rpartition("/")[2]] = os.fstat(fd).st_size

    mark = Store.mark_attempts

    def marking(self: Store, job_id: int, size: int, last: int) -> None:
        marks.append((size, durable.get("attempts.jsonl", 0)))
        mark(self, job_id, size, last)

    monkeypatch.setattr("spoold.report.reporter._MARK_EVERY", 0.0)
    monkeypatch.setattr(Store, "mark_attempts", marking)
    relay.rules.append(Rule("RCPT", Reply("451 4.3.0 later"), match="late"))
    agent.configure(relay.port, relay={"recipients_per_message": 1, "connections": 1})
    agent.drop("job", ["late@one.example", "ada@one.example"], manifest={"retry": {"every": "1s", "for": "1h"}})
    assert await live(agent, Syncing(), lambda: len(marks) >= 3) is None
    assert all(0 < size <= synced for size, synced in marks), marks


async def test_slow_disk_and_a_slow_relay_keep_no_job_with_a_rate_from_being_sent(
    agent: Agent, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant = journal._grant

    def slow(connection: object, claim: journal._Claim) -> list[int]:
        time.sleep(0.15)  # the disk, in the thread that writes
        return grant(connection, claim)  # type: ignore[arg-type]

    monkeypatch.setattr(journal, "_grant", slow)
    monkeypatch.setattr("spoold.delivery.claim._LATE", 0.1)
    relay.rules.append(Rule("RCPT", Delay(0.2)))
    agent.configure(relay.port, relay={"recipients_per_message": 1, "connections": 2})
    agent.drop("job", [f"to{number}@one.example" for number in range(6)], manifest={"rate": "100/s"})
    assert await live(agent, Files(), lambda: (agent.spool / "done/job").is_dir()) is None
    assert sorted(relay.recipients) == [f"to{number}@one.example" for number in range(6)]
    assert {row["attempts"] for row in agent.recipients("job")} == {"1"}
