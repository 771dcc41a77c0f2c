"""Jobs for the real agent, and what it used to send them. The agent runs as its users run it: reports on, log at info."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.bench import bare
from tests.bench.sink import Flow, Sink
from tests.bench.usage import cpu_seconds, peak_memory
from tests.servers.agent import Agent

SIZE = 2048
CONNECTIONS = 20
_HEADER = (
    b"From: news@example.com\nTo: u%d@example.org\nSubject: bench\n"
    b"Date: Tue, 1 Dec 2026 09:00:00 +0000\nMessage-ID: <%d@example.com>\n\n"
)


def message(number: int, size: int = SIZE) -> bytes:
    """A message of about `size` bytes that no other number has."""
    return _HEADER % (number, number) + (b"y" * 70 + b"\n") * (size // 71)


def addresses(count: int) -> str:
    """A recipients.csv of so many addresses, in 500 domains."""
    return "address\n" + "".join(f"user{number}@domain{number % 500}.example\n" for number in range(count))


@contextmanager
def running(
    sink: Sink, *, connections: int = CONNECTIONS, each: int = 100, config: Mapping[str, Any] | None = None
) -> Iterator[Agent]:
    """A started agent in a new spool; `each` is its `recipients_per_message`."""
    with spool(sink, connections=connections, each=each, config=config) as agent:
        agent.start()
        yield agent


@contextmanager
def spool(
    sink: Sink, *, connections: int = CONNECTIONS, each: int = 100, config: Mapping[str, Any] | None = None
) -> Iterator[Agent]:
    """The same, not started yet."""
    relay = {"connections": connections, "recipients_per_message": each}
    log = {"format": "json", "level": "info"}
    with (
        tempfile.TemporaryDirectory(prefix="spoold-bench-") as folder,
        Agent(Path(folder), sink.port, relay=relay, config={"log": log, **(config or {})}) as agent,
    ):
        yield agent


def stage_personal(
    agent: Agent, name: str, count: int, size: int = SIZE, files: Mapping[str, bytes] | None = None
) -> Path:
    """A job folder in tmp/ with a message file for each recipient."""
    rows = "address,message\n" + "".join(f"u{n}@example.org,messages/{n}.eml\n" for n in range(count))
    folder = agent.write_job(agent.spool / "tmp" / name, rows, message=None, files=files)
    (folder / "messages").mkdir()
    for number in range(count):
        (folder / "messages" / f"{number}.eml").write_bytes(message(number, size))
    return folder


def hand_over(agent: Agent, folder: Path) -> None:
    """The end of an upload: one rename."""
    folder.rename(agent.spool / "new" / folder.name)


def take_held(agent: Agent, messages: int, size: int = SIZE) -> None:
    """Have the job `job` taken, a file for each recipient, and held: `send_held` goes on."""
    hand_over(agent, stage_personal(agent, "job", messages, size, files={"HOLD": b""}))
    agent.wait_state("job", "held", timeout=120 + messages / 100)


@dataclass(frozen=True, slots=True)
class Sent:
    """What it took to send a job, from its release to its final report; CPU in seconds, memory in MB."""

    flow: Flow
    cpu: float
    peak: float


def send_held(agent: Agent, sink: Sink, messages: int) -> Sent:
    """Release the job `job` that stands held, and see it through; `messages` are transactions."""
    used = cpu_seconds(agent.pid)
    hold = agent.spool / "deferred" / "job" / "HOLD"
    flow = sink.flow(messages, hold.unlink, timeout=120 + messages / 50)
    agent.wait_state("job", "finished", timeout=120)
    return Sent(flow, cpu_seconds(agent.pid) - used, peak_memory(agent.pid))


@cache
def drain(messages: int, size: int, connections: int, delay: float = 0.0) -> tuple[Sent, float, float]:
    """A taken job of personalised messages, and the bare client with the same files, at the same relay.

    Returns what the agent did, and the bare client's messages a second and CPU seconds a message.
    """
    with Sink(delay) as sink, running(sink, connections=connections) as agent:
        take_held(agent, messages, size)
        peer = bare.run(sink.port, messages, size, connections, folder=agent.spool / "deferred" / "job" / "messages")
        return send_held(agent, sink, messages), peer.rate, peer.cpu
