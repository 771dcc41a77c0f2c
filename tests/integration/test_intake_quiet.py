"""How long an upload must rest, whoever declares it complete, and when one that rests too long is given up."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.servers.agent import Agent, wait_for
from tests.servers.relay import Relay
from tests.servers.upload import content, seal_of, waits, write


@pytest.fixture
def strict_agent(tmp_path: Path, relay: Relay) -> Iterator[Agent]:
    """An agent that takes nothing for being quiet."""
    with Agent(tmp_path, relay.port, config={"intake": {"quiet": False, "settle": "10m", "stale": "6s"}}) as agent:
        yield agent.start()


def test_declared_uploads_are_taken_at_once_and_quiet_ones_become_stale_where_quiet_is_off(
    strict_agent: Agent, relay: Relay
) -> None:
    agent, new = strict_agent, strict_agent.spool / "new"
    quiet = content("ada@quiet.example")
    write(new / "quiet", quiet)
    os.utime(new / "quiet" / "message.eml", (1, 1))
    start = time.monotonic()
    sealed = content("ada@sealed.example")
    write(new / "sealed", {**sealed, "SHA256SUMS": seal_of(sealed)})
    write(new / "ready", content("ada@ready.example"))
    (new / "ready" / "READY").touch()
    agent.drop("renamed", ["ada@renamed.example"])
    for name, rule in (("sealed", "sealed"), ("ready", "ready"), ("renamed", "renamed in")):
        status = agent.wait_state(name, "finished")
        assert status["counts"]["sent"] == status["total"] == 1
        assert [event["rule"] for event in agent.events("job.accepted") if event["job"] == name] == [rule]
    assert time.monotonic() - start < 4
    assert (new / "quiet").is_dir()
    wait_for(
        lambda: waits(agent).get("quiet") == "SHA256SUMS, READY, or a rename from tmp/ (intake.quiet is off)",
        what="the quiet upload in status.json",
    )
    status = agent.wait_state("quiet", "rejected")
    assert status["errors"] == [
        "the upload did not become complete: it waited for SHA256SUMS, READY, or a rename from tmp/ (intake.quiet is off)"
    ]
    assert status["reason"] == status["errors"][0]
    assert time.monotonic() - start >= 6
    assert sorted(relay.recipients) == ["ada@ready.example", "ada@renamed.example", "ada@sealed.example"]
    assert relay.violations == []
    wait_for(lambda: not list(new.iterdir()), what="an empty new/")


def change_until_gone(
    folder: Path, change: Callable[[int], object], *, times: int, every: float
) -> tuple[float, float]:
    """Change an upload so many times, a little more than `every` seconds apart, and wait until it is not in new/ any more.

    Gives the moments of the last change and of the end.
    """
    changed = time.monotonic()
    number = 0

    def is_gone() -> bool:
        nonlocal changed, number
        if number < times and time.monotonic() - changed > every:
            change(number)
            changed, number = time.monotonic(), number + 1
        return not folder.exists()

    wait_for(is_gone, what="the end of the upload")
    assert number == times
    return changed, time.monotonic()


def test_upload_that_keeps_changing_is_not_quiet(tmp_path: Path, relay: Relay) -> None:
    settle = 2.0
    with Agent(tmp_path, relay.port, config={"intake": {"settle": "2s"}}) as agent:
        agent.start()
        folder = agent.spool / "new" / "slow"
        write(folder, content("ada@slow.example"))
        begun = time.monotonic()

        def touch(_: int) -> None:
            # The size stays; only the times tell.
            with (folder / "message.eml").open("r+b") as file:
                file.write(b"F")

        changed, taken = change_until_gone(folder, touch, times=5, every=0.9)
        assert changed - begun > 2 * settle
        assert settle - 0.05 <= taken - changed < settle + 2
        agent.wait_state("slow", "finished")
        assert relay.recipients == ["ada@slow.example"]


def test_stale_clock_of_an_upload_starts_again_with_each_change(tmp_path: Path, relay: Relay) -> None:
    with Agent(tmp_path, relay.port, config={"intake": {"stale": "2s", "settle": "1s"}}) as agent:
        agent.start()
        folder = agent.spool / "new" / "late"
        files = content("ada@late.example")
        write(folder, {"message.eml": files["message.eml"]})
        first = time.monotonic()
        changed, over = change_until_gone(
            folder, lambda number: write(folder, {f"part-{number}": b""}), times=3, every=1.0
        )
        assert over - changed >= 1.9
        assert changed - first > 3.0
        status = agent.wait_state("late", "rejected")
        assert status["errors"] == ["the upload did not become complete: it waited for job.yaml"]
        assert relay.accepted == []
