"""The real process, killed with SIGKILL at every named place: the next start finishes everything by itself."""

import random
import signal
import time
from pathlib import Path

import pytest

from spoold.failpoint import NAMES
from tests.servers.agent import Agent
from tests.servers.audit import at_rest, audit, wait_at_rest
from tests.servers.relay import Relay, read_journal
from tests.servers.upload import personal

CONNECTIONS = 4
PER_MESSAGE = 5
pytestmark = pytest.mark.agent(relay={"connections": CONNECTIONS, "recipients_per_message": PER_MESSAGE})
#: Recipients that can be in a transaction that is open, or next in line on its connection, at one moment.
OPEN = 2 * CONNECTIONS * PER_MESSAGE

#: Which passing kills in the second run, at a time when other jobs and messages are in every stage.
LATER = {
    "claim-renamed": 2,
    "file-taken": 4,
    "file-synced": 7,
    "chunk-committed": 2,
    "before-accept": 2,
    "after-accept": 2,
    "before-move": 2,
    "after-move": 2,
    "before-report": 11,
    "report-written": 4,
    "attempts-appended": 4,
}
#: Up to here in a message's way the relay cannot have it.
BEFORE_DOT = frozenset(NAMES[: NAMES.index("after-dot")]) - {"before-move", "after-move"}
#: Here the intent is on record and the outcome is not.
IN_DOUBT = NAMES[NAMES.index("after-intent") : NAMES.index("after-outcome")]


def drop_shared(agent: Agent, name: str, recipients: int = 35) -> list[str]:
    """A job with one message for all; READY, so that it is taken at once before and after a kill."""
    addresses = [f"{name}-{n}@domain{n % 3}.example" for n in range(recipients)]
    agent.drop(name, addresses, manifest={"on_uncertain": "hold"}, files={"READY": b""})
    return addresses


def drop_personal(agent: Agent, name: str) -> list[str]:
    """A job with one message each."""
    addresses = [f"{name}-{n}@domain{n % 3}.example" for n in range(12)]
    table, files = personal(addresses)
    agent.drop(name, table, manifest={"on_uncertain": "hold"}, message=None, files={"READY": b"", **files})
    return addresses


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith(("pickup-", "notice-"))])
def test_start_after_kills_at_a_failpoint_finishes_all_and_sends_nothing_twice(
    name: str, agent: Agent, relay: Relay
) -> None:
    # A small job goes into the database whole, a large one in chunks.
    size = 1100 if name == "chunk-committed" else 35
    jobs = {"a": drop_shared(agent, "a", size), "b": drop_personal(agent, "b")}
    agent.start(failpoint=name, wait=False)
    assert agent.died() == -signal.SIGKILL
    if name in BEFORE_DOT:
        assert relay.accepted == []

    jobs |= {"c": drop_personal(agent, "c"), "d": drop_shared(agent, "d")}
    agent.start(failpoint=f"{name}:{LATER.get(name, 6)}", wait=False)
    assert agent.died() == -signal.SIGKILL
    recovered = [event["uncertain"] for event in agent.events("agent.recovered")]
    if name in IN_DOUBT:
        assert 1 <= recovered[0] <= OPEN
    elif name in BEFORE_DOT:
        assert recovered == []

    agent.start()
    recovered += [event["uncertain"] for event in agent.events("agent.recovered")]
    wait_at_rest(agent, jobs)
    assert agent.stop() == 0
    found = audit(agent, relay.accepted, jobs)
    assert all(count <= OPEN for count in recovered)
    assert len(found.uncertain) == sum(recovered)
    assert relay.violations == []
    assert agent.events("agent.task_failed") == []


# --- random moments ---------------------------------------------------------------------------------------------------

RECIPIENTS = 2000
PERSONAL = 200
#: Seconds that a process lives at most before it is ended, so that a slow machine does not make the test endless.
LONGEST = 3.0


def drop_round(agent: Agent, number: int) -> dict[str, list[str]]:
    """2,000 recipients in two jobs: one message for most of them, one each for the others."""
    shared, own = f"shared-{number}", f"personal-{number}"
    many = [f"{shared}-{n}@domain{n % 5}.example" for n in range(RECIPIENTS - PERSONAL)]
    agent.drop(shared, many, manifest={"on_uncertain": "hold"}, files={"READY": b""})
    few = [f"{own}-{n}@domain{n % 5}.example" for n in range(PERSONAL)]
    table, files = personal(few)
    agent.drop(own, table, manifest={"on_uncertain": "hold"}, message=None, files={"READY": b"", **files})
    return {shared: many, own: few}


def send_through_endings(
    agent: Agent, number: signal.Signals, endings: int, seed: int
) -> tuple[dict[str, list[str]], list[int], int]:
    """End the agent at `endings` random moments while it sends, with new jobs whenever there is nothing left to send.

    Returns all jobs, at rest, how many recipients each start said it found in doubt, and how many starts were ended before
    they could say so: a kill may come between the commit of what was found and its event.
    """
    chance = random.Random(seed)
    recovered: list[int] = []
    unsaid = 0

    def start(*, wait: bool) -> None:
        agent.start(wait=wait)

    def end(by: signal.Signals) -> None:
        code = agent.stop(by)
        assert code == (0 if by is signal.SIGTERM and agent.events("agent.started") else -by), agent.log_file
        said = [event["uncertain"] for event in agent.events("agent.recovered")]
        recovered.extend(said)
        nonlocal unsaid
        unsaid += not said and not agent.events("agent.started")

    begun = time.monotonic()
    jobs = drop_round(agent, 0)
    start(wait=True)
    wait_at_rest(agent, jobs)
    length = min(time.monotonic() - begun, LONGEST)
    end(signal.SIGTERM)

    rounds = 0
    current: dict[str, list[str]] = {}
    for _ in range(endings):
        if all(at_rest(agent, name) for name in current):
            rounds += 1
            current = drop_round(agent, rounds)
            jobs |= current
        start(wait=number is signal.SIGTERM)
        time.sleep(chance.uniform(0.0, length))  # the moment is what is tested
        end(number)
    start(wait=True)
    wait_at_rest(agent, jobs)
    end(signal.SIGTERM)
    return jobs, recovered, unsaid


@pytest.mark.parametrize(("connections", "per_message", "kills"), [(10, 1, 20), (10, 10, 30)])
def test_kills_at_random_moments_lose_nothing_and_send_nothing_twice(
    tmp_path: Path, connections: int, per_message: int, kills: int
) -> None:
    settings = {"connections": connections, "recipients_per_message": per_message}
    with Relay(journal=tmp_path / "journal") as relay, Agent(tmp_path, relay.port, relay=settings) as agent:
        jobs, recovered, unsaid = send_through_endings(agent, signal.SIGKILL, kills, seed=per_message)
        found = audit(agent, read_journal(tmp_path / "journal"), jobs)
        most = 2 * connections * per_message
        assert all(count <= most for count in recovered)
        assert sum(recovered) <= len(found.uncertain) <= sum(recovered) + unsaid * most
        assert recovered, "no kill came while a transaction was open: this run has tested nothing"
        assert relay.violations == []


def test_stops_by_sigterm_at_random_moments_leave_nothing_in_doubt(tmp_path: Path) -> None:
    settings = {"connections": 10, "recipients_per_message": 5}
    with Relay(latency=0.01) as relay, Agent(tmp_path, relay.port, relay=settings) as agent:
        jobs, recovered, _ = send_through_endings(agent, signal.SIGTERM, 3, seed=5)
        found = audit(agent, relay.accepted, jobs)
        assert (recovered, found.uncertain) == ([], set())
        assert relay.violations == []
