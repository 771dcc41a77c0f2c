"""No work depends on the log: the agent sends, records and ends as ever when nobody reads what it says, or can."""

import contextlib
import fcntl
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.servers.agent import Agent, wait_for
from tests.servers.relay import Relay, Reply, Rule

PROGRAM = Path(sys.executable).parent / "spoold"


@contextlib.contextmanager
def running(agent: Agent, stderr: int | IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The agent with its standard error there."""
    process = subprocess.Popen([PROGRAM, "--config", agent.config, "run"], stdin=subprocess.DEVNULL, stderr=stderr)
    try:
        wait_for(lambda: process.poll() is not None or running_now(agent, process.pid), what="the agent's start")
        assert process.poll() is None
        yield process
    finally:
        process.kill()
        process.wait()


def running_now(agent: Agent, pid: int) -> bool:
    state = agent.state()
    return state is not None and (state["agent"]["state"], state["agent"]["pid"]) == ("running", pid)


def dropped(agent: Agent) -> int:
    text = (agent.spool / "metrics.prom").read_text()
    found = re.search(r"^spoold_log_lines_dropped_total\S* (\S+)$", text, re.MULTILINE)
    assert found is not None
    return int(float(found[1]))


def send(agent: Agent, relay: Relay, name: str, n: int = 42) -> None:
    """A job of which the last two are refused, done and recorded exactly."""
    relay.rules[:] = [Rule("RCPT", Reply("550 5.1.1 no such user"), match=f"{name}-{k}@") for k in (n - 1, n)]
    agent.drop(name, [f"{name}-{k}@one.example" for k in range(1, n + 1)])
    counts = agent.wait_state(name, "finished")["counts"]
    assert {state: count for state, count in counts.items() if count} == {"sent": n - 2, "failed": 2}


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    assert process.wait(20) == 0


@pytest.mark.parametrize("form", ["json", "console"])
def test_pipe_that_is_closed_while_the_agent_runs_costs_nothing(agent: Agent, relay: Relay, form: str) -> None:
    agent.configure(relay.port, config={"log": {"format": form, "level": "debug"}})
    reading, writing = os.pipe()
    with running(agent, writing) as process:
        os.close(writing)
        send(agent, relay, "before")
        os.close(reading)
        send(agent, relay, "after")
        wait_for(lambda: dropped(agent) > 0, what="a count of what was lost")
        end(process)


def test_pipe_that_nobody_reads_holds_up_neither_work_nor_end(agent: Agent, relay: Relay) -> None:
    reading, writing = os.pipe()
    # A pipe of one page: full before the agent has started.
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 512)
    os.set_blocking(writing, True)
    with running(agent, writing) as process:
        for round_ in range(3):
            send(agent, relay, f"round{round_}")
        end(process)
    os.close(reading)
    os.close(writing)


def test_full_disk_under_the_log_costs_nothing_from_the_start(agent: Agent, relay: Relay) -> None:
    with open("/dev/full", "wb") as full, running(agent, full) as process:
        send(agent, relay, "full")
        wait_for(lambda: dropped(agent) > 0, what="a count of what was lost")
        end(process)


def test_terminal_that_went_away_costs_nothing(agent: Agent, relay: Relay) -> None:
    master, slave = pty.openpty()
    with running(agent, slave) as process:
        os.close(slave)
        os.close(master)
        send(agent, relay, "gone")
        end(process)


def test_log_goes_on_and_tells_what_is_missing_once_there_is_room(agent: Agent, relay: Relay, tmp_path: Path) -> None:
    log = tmp_path / "fifo"
    os.mkfifo(log)
    reading = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    writing = os.open(log, os.O_WRONLY)
    with running(agent, writing) as process:
        os.close(reading)
        send(agent, relay, "lost")
        wait_for(lambda: dropped(agent) > 0, what="a count of what was lost")
        reading = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
        send(agent, relay, "seen")
        end(process)
    events = [json.loads(line) for line in os.read(reading, 1 << 20).splitlines()]
    os.close(reading)
    os.close(writing)
    [told] = [event for event in events if event["event"] == "log.dropped"]
    assert told["lines"] > 0
    assert events[-1]["event"] == "agent.stopped"


def test_agent_that_cannot_start_ends_though_nobody_reads_why(agent: Agent, relay: Relay) -> None:
    (agent.spool / ".spoold" / "spool.db").write_bytes(b"no database" * 1000)
    for target in ("/dev/full", None):
        reading, writing = os.pipe()
        if target is None:
            os.close(reading)
        fd = writing if target is None else os.open(target, os.O_WRONLY)
        done = subprocess.run([PROGRAM, "--config", agent.config, "run"], stderr=fd, timeout=30, check=False)
        assert done.returncode == 1


@pytest.mark.parametrize("arguments", [["status"], ["status", "--json"], ["check"]])
def test_command_whose_output_finds_no_room_says_so_and_ends_with_one(agent: Agent, arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [PROGRAM, "--config", agent.config, *arguments], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


@pytest.mark.parametrize("arguments", [["status"], ["status", "nosuchjob"], ["--nonsense"]])
def test_command_whose_errors_nobody_reads_ends_with_its_own_code(agent: Agent, arguments: list[str]) -> None:
    codes = []
    for stderr in (subprocess.DEVNULL, "full", "closed", "broken"):
        command: list[str | Path] = [PROGRAM, "--config", agent.config, *arguments]
        if stderr == "closed":
            command = ["/bin/sh", "-c", 'exec "$0" "$@" 2>&-', *command]
        reading, writing = os.pipe()
        os.close(reading)
        with open("/dev/full", "wb") as full:
            where = {"full": full.fileno(), "broken": writing}.get(str(stderr), subprocess.DEVNULL)
            codes.append(subprocess.run(command, stdout=subprocess.DEVNULL, stderr=where, check=False).returncode)
        os.close(writing)
    assert len(set(codes)) == 1
    assert codes[0] in (0, 1, 2)
