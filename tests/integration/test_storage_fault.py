"""File operations that fail: each kind of call, at several moments, by each errno, and what is made good without a person.

The agent runs in the test's process on a seam that fails; the database's own files are SQLite's, see test_database_fault.py.
"""

import asyncio
import errno
import itertools
from pathlib import Path

import pytest

from spoold.storage.files import Files
from spoold.storage.spooldir import SpoolError
from tests.servers.agent import Agent
from tests.servers.audit import at_rest, audit
from tests.servers.inprocess import OPERATIONS, Faulty, capture, live, name_of
from tests.servers.relay import Relay
from tests.servers.upload import drop_pair

ERRORS = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EMFILE)


def jobs(run: str) -> dict[str, list[str]]:
    return {name: [f"{name}{n}@{run}.example" for n in range(4)] for name in ("one", "two")}


def finished(agent: Agent, run: str) -> bool:
    return all(at_rest(agent, name) for name in jobs(run))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be taken is looked at again soon, not after half a minute."""
    monkeypatch.setattr("spoold.intake.batch._AFTER_ERROR", 0.1)


def moments(calls: int) -> list[int]:
    """The first call, the last one that surely comes, and some between."""
    return sorted({1, *(calls * part // 8 for part in range(1, 8))} - {0})


async def one_run(folder: Path, port: int, operation: str, nth: int, number: int, run: str) -> tuple[Agent, int]:
    """A life in which that call fails; the agent, and how often it came to pass."""
    folder.mkdir()
    agent = Agent(folder, port)
    drop_pair(agent, jobs(run))
    files = Faulty()
    files.arm(operation, nth, number)

    def done() -> bool:
        return finished(agent, run)

    try:
        ended = await live(agent, files, done)
    except SpoolError as error:
        ended = error  # the spool's own folders could not be opened
    except AssertionError as error:
        raise AssertionError(f"{run}: {error}") from None
    if isinstance(ended, OSError | SpoolError):
        # At the start it is one line and exit code 1; whoever starts it again need do no more.
        ended = await live(agent, Files(), done)
    assert ended is None, (run, ended)
    if rest := [path.name for path in (agent.spool / "new").iterdir()]:
        # The shell of an upload that was taken: out of the way, and gone with the next start.
        assert all(name.startswith(".taken-") for name in rest), (run, rest)
        assert await live(agent, Files(), done) is None
    return agent, files.failed


@pytest.mark.parametrize("operations", [OPERATIONS[n::4] for n in range(4)], ids=" ".join)
@pytest.mark.usefixtures("quick")
async def test_any_file_operation_may_fail_once_at_any_moment_and_the_agent_makes_it_good_by_itself(
    operations: tuple[str, ...], tmp_path: Path, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = capture(monkeypatch)
    monkeypatch.setattr("spoold.intake.custody._MANY", 3)  # so that both ways of syncing are gone
    agent = Agent(tmp_path, relay.port)
    drop_pair(agent, jobs("healthy"))
    files = Faulty()
    assert await live(agent, files, lambda: finished(agent, "healthy")) is None
    audit(agent, relay.accepted, jobs("healthy"))

    relay.accepted.clear()
    runs = []
    errors = itertools.cycle(ERRORS)
    for operation in operations:
        for nth in moments(files.calls[operation]):
            number = next(errors)
            run = f"{operation.replace('_', '-')}-{nth}-{name_of(number).lower()}"
            runs.append((run, one_run(tmp_path / run, relay.port, operation, nth, number, run)))
    found = await asyncio.gather(*(life for _, life in runs))
    for (run, _), (agent, _) in zip(runs, found, strict=True):
        wanted = jobs(run)
        addresses = {address for each in wanted.values() for address in each}
        accepted = [message for message in relay.accepted if addresses & {*message.recipients}]
        try:
            assert audit(agent, accepted, wanted).uncertain == set()
        except AssertionError as error:
            raise AssertionError(f"{run}: {error}; {log.lines}") from error
    assert sum(failed for _, failed in found) > len(runs) / 2, "too few of the faults came to pass"
    assert log.of("agent.task_failed", "agent.failed") == []
    assert relay.violations == []
