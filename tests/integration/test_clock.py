"""The machine's clock set a year forward and a day back under the running agent: no storm and no standstill.

libfaketime (Debian: faketime) stands before the real process's clock; the offset is read from a file that the test changes.
"""

import os
import signal
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from tests.servers.agent import Agent, wait_for
from tests.servers.relay import Relay, Reply, Rule

DAY = 86_400
YEAR = 365 * DAY


def library() -> Path:
    """The preload library for programs with threads."""
    found = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if found is None:
        message = "libfaketime is not installed (Debian: apt-get install faketime)"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found


def set_clock(path: Path, offset: int) -> None:
    """So many seconds ahead of the real time, from the next look at the clock on; replaced at once, never half."""
    new = path.with_suffix(".new")
    new.write_text(f"{offset:+d}\n")
    new.replace(path)


def moments(relay: Relay, address: str) -> list[float]:
    """When the address was tried, in monotonic seconds."""
    return [line.at for line in tuple(relay.commands) if line.text.upper().startswith(f"RCPT TO:<{address}>".upper())]


def faked(clock: Path) -> dict[str, str]:
    """The environment of a process whose clock is set by that file."""
    return {
        "LD_PRELOAD": str(library()),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        # As on a machine whose clock is set: what counts from its start knows nothing of that.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
        # Else each timed wait for Python's lock ends at once, and threads that wait for it keep the cores busy.
        "FAKETIME_FORCE_MONOTONIC_FIX": "0",
    }


def test_a_year_forward_and_a_day_back_make_neither_storm_nor_standstill(tmp_path: Path, relay: Relay) -> None:
    clock = tmp_path / "clock"
    set_clock(clock, 0)
    busy = Rule("RCPT", Reply("451 4.2.1 busy, later"), match="busy")
    relay.rules.append(busy)
    given = {"connections": 4, "recipients_per_message": 1}
    manifest = {"retry": {"after": ["2s"], "for": "800d"}, "expires": "800d"}
    with Agent(tmp_path, relay.port, relay=given, environ=faked(clock)) as agent:
        agent.start()
        agent.drop("retried", ["ada@busy.example"], manifest=manifest)
        agent.drop("slow", [f"r{number}@slow.example" for number in range(30)], manifest={**manifest, "rate": "2/s"})
        relay.wait_for(lambda _: len(moments(relay, "ada@busy.example")) >= 2)
        relay.wait_for(lambda _: len(relay.accepted) >= 4)

        set_clock(clock, YEAR)
        tried, sent = len(moments(relay, "ada@busy.example")), len(relay.accepted)
        relay.wait_for(lambda _: len(moments(relay, "ada@busy.example")) >= tried + 2)
        relay.wait_for(lambda _: len(relay.accepted) >= sent + 4)
        assert agent.events("clock.jumped") == []

        set_clock(clock, YEAR - DAY)
        tried, sent = len(moments(relay, "ada@busy.example")), len(relay.accepted)
        [jumped] = wait_for(lambda: agent.events("clock.jumped"), what="clock.jumped")
        assert abs(jumped["seconds"] + DAY) < 60
        relay.wait_for(lambda _: len(moments(relay, "ada@busy.example")) >= tried + 2)
        relay.wait_for(lambda _: len(relay.accepted) >= sent + 4)

        relay.rules.remove(busy)
        assert agent.wait_state("retried", "finished")["counts"]["sent"] == 1
        assert agent.wait_state("slow", "finished", 30)["counts"]["sent"] == 30
        assert agent.events("agent.task_failed") == []
        assert len(agent.events("clock.jumped")) == 1
        assert agent.stop() == 0
    # No storm: what waited for its retry was tried at once at the most once a jump, and the rate held but for its burst.
    gaps = [later - earlier for earlier, later in pairwise(moments(relay, "ada@busy.example"))]
    assert sum(gap < 1.5 for gap in gaps) <= 2, gaps
    sent_at = sorted(mail.at for mail in relay.accepted if "slow.example" in mail.recipients[0])
    assert max(sum(start <= at < start + 1 for at in sent_at) for start in sent_at) <= 4, sent_at
    assert sorted(relay.recipients) == sorted(
        ["ada@busy.example", *(f"r{number}@slow.example" for number in range(30))]
    )
    assert relay.violations == []


@pytest.mark.parametrize("end", ["stopped", "killed"])
def test_a_day_back_while_no_agent_runs_makes_nobody_wait_a_day_longer(end: str, tmp_path: Path, relay: Relay) -> None:
    """Who waits for a retry, who was never tried, and whom a rate by the day holds up."""
    clock = tmp_path / "clock"
    set_clock(clock, 0)
    busy = Rule("RCPT", Reply("451 4.2.1 busy, later"), match="busy")
    relay.rules.append(busy)
    retry = {"every": "8s", "for": "5d"}
    with Agent(tmp_path, relay.port, relay={"connections": 4}, environ=faked(clock)) as agent:
        agent.start()
        agent.drop("retried", ["ada@busy.example"], manifest={"retry": retry})
        agent.drop("hourly", ["bob@busy.example"], manifest={"retry": {"every": "1h", "for": "5d"}})
        agent.drop("queued", ["cid@queued.example"], files={"HOLD": b""})
        daily = [f"d{number}@daily.example" for number in range(4)]
        agent.drop("daily", daily, manifest={"rate": "21600/d"})
        for name in ("retried", "hourly"):
            agent.wait_state(name, "waiting")
        agent.wait_state("queued", "held")
        wait_for(lambda: (agent.status("daily") or {"counts": {"sent": 0}})["counts"]["sent"])
        assert agent.stop(signal.SIGTERM if end == "stopped" else signal.SIGKILL) in (0, -signal.SIGKILL)

        set_clock(clock, -DAY)
        relay.rules.remove(busy)
        before = len(moments(relay, "ada@busy.example"))
        begun = time.monotonic()
        agent.start()
        [jumped] = agent.events("clock.jumped")
        assert abs(jumped["seconds"] + DAY) < 120
        (agent.spool / "deferred/queued/HOLD").unlink()
        assert agent.wait_state("queued", "finished", 60)["counts"]["sent"] == 1
        assert agent.wait_state("retried", "finished", 60)["counts"]["sent"] == 1
        assert agent.wait_state("daily", "finished", 60)["counts"]["sent"] == 4
        assert time.monotonic() - begun < 120
        assert len(moments(relay, "ada@busy.example")) == before + 1
        # Whose retry was not due waits for it, as long as it would have; another start makes it no shorter.
        for again in (False, True):
            if again:
                assert agent.stop() == 0
                agent.start()
                assert agent.events("clock.jumped") == []
            status = agent.wait_state("hourly", "waiting")
            left = datetime.fromisoformat(status["next_at"]).timestamp() - (time.time() - DAY)
            assert 3400 < left <= 3610
        assert len(moments(relay, "bob@busy.example")) == 1
        assert agent.events("agent.task_failed") == []
        assert agent.stop() == 0
    assert sorted(relay.recipients) == sorted(["ada@busy.example", "cid@queued.example", *daily])
    assert relay.violations == []
