"""What grows with the number of recipients and what must not: memory, CPU a message, the time to recover from a kill."""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from tests.bench import job
from tests.bench.row import Finding, Scale, at_most, compared, progress
from tests.bench.sink import Sink
from tests.bench.usage import cpu_seconds, forget_peak, peak_memory
from tests.servers.agent import Agent, wait_for, wait_replaced


@dataclass(frozen=True, slots=True)
class Run:
    """A whole job, from its drop to its last report: memory in MB, CPU seconds a recipient.

    `first` is the seconds from the drop to the first acceptance, `recovered` those from the start after a kill to the
    first new one; None without a kill. `reports` is the CPU of report writers as a part of the time that the sending took;
    None after a kill.
    """

    peak: float
    cpu: float
    first: float
    recovered: float | None
    reports: float | None


@cache
def shared(recipients: int, *, kill: bool) -> Run:
    """One message to so many, a transaction each; `kill` -9 in the middle."""
    progress(f"one message to {recipients} recipients, a transaction each{', kill -9 in the middle' if kill else ''}")
    timeout = 120 + recipients / 200
    with Sink() as sink, job.running(sink, each=1) as agent:
        folder = agent.write_job(agent.spool / "tmp" / "job", job.addresses(recipients), message=job.message(0))
        used = cpu_seconds(agent.pid)
        begun = time.monotonic()
        job.hand_over(agent, folder)
        first = sink.wait(1, timeout) - begun
        cpu = peak = 0.0
        recovered: float | None = None
        if kill:
            sink.wait(recipients // 2, timeout)
            cpu, peak = cpu_seconds(agent.pid) - used, peak_memory(agent.pid)
            used = 0.0
            agent.kill()
            before = _settled(sink)
            begun = time.monotonic()
            agent.start(wait=False)
            recovered = sink.wait(before + 1, 60) - begun
        # After a kill some recipients are *uncertain*, and wait for a quarter of an hour.
        rest = recipients - job.CONNECTIONS * 3 if kill else recipients
        sending = sink.wait(rest, timeout) - begun - (0.0 if kill else first)

        def ended() -> bool:
            counts = (agent.status("job") or {}).get("counts")
            return counts is not None and counts["queued"] + counts["sending"] == 0

        wait_for(ended, 60, "the last outcome in the report")
        if not kill:
            agent.wait_state("job", "finished", 60 + recipients / 5000)
        cpu += cpu_seconds(agent.pid) - used
        peak = max(peak, peak_memory(agent.pid))
        return Run(peak, cpu / recipients, first, recovered, None if kill else _report_cpu(agent) / sending)


def _report_cpu(agent: Agent) -> float:
    """CPU seconds of the report writers, from metrics that are written after all that they did."""
    path = agent.spool / "metrics.prom"
    for _ in range(2):
        wait_replaced(path, 15)
    found = re.search(r"^spoold_report_cpu_seconds_total\S* (\S+)$", path.read_text(), re.MULTILINE)
    assert found is not None
    return float(found[1])


def _settled(sink: Sink) -> int:
    """How many messages the relay took, once nothing more is in the sockets."""
    before = -1
    while before != sink.accepted:
        before = sink.accepted
        time.sleep(0.5)
    return before


@cache
def personal(recipients: int) -> tuple[float, float]:
    """Peak memory in MB of a job with a file for each: while it is taken, and while it is sent."""
    progress(f"{recipients} personalised messages")
    with Sink() as sink, job.running(sink) as agent:
        job.take_held(agent, recipients)
        taking = peak_memory(agent.pid)
        forget_peak(agent.pid)
        return taking, job.send_held(agent, sink, recipients).peak


def memory(scale: Scale) -> Iterator[Finding]:
    """Peak memory must not grow."""
    runs = [(f"{size:,}", shared(size, kill=size == scale.shared[-1]).peak) for size in scale.shared]
    taking = 0.0
    if scale.personal:
        taking, sending = personal(scale.personal)
        runs.append((f"{scale.personal:,} from a file each", sending))
    least = min(peak for _, peak in runs)
    most = max(peak for _, peak in runs)
    sizes = ", ".join(f"{peak:.0f} MB for {size}" for size, peak in runs)
    yield compared(f"peak memory while sending: {sizes}", most, least, "MB", at_most(1.2), at_most(2), "least")
    most = max(most, taking)
    yield Finding("the same: the most, intake included", f"{most:.0f} MB", "", None, most, at_most(120, "MB"))


def cost(scale: Scale) -> Iterator[Finding]:
    """CPU a message must not grow."""
    small, large = scale.shared[0], scale.shared[-1]
    base, ours = shared(small, kill=False).cpu * 1e6, shared(large, kill=True).cpu * 1e6
    what = f"CPU a message, a job of {large:,} against one of {small:,}"
    yield compared(what, ours, base, "µs", at_most(1.15), at_most(3), f"{small:,}:")


def reports(scale: Scale) -> Iterator[Finding]:
    """What the report writers take of the time that a large job is sent for."""
    for size in scale.shared[1:]:
        share = shared(size, kill=False).reports
        assert share is not None
        what = f"CPU of the report writers, of the time that a job of {size:,} is sent for"
        # The first page and the last one weigh more on a job that is soon through.
        target = 0.05 if size >= 1_000_000 else 0.1
        yield Finding(what, f"{share:.1%}", "", share, share, at_most(target, ""), at_most(0.5))


def kill(scale: Scale) -> Iterator[Finding]:
    """Recovery."""
    size = scale.shared[-1]
    recovered = shared(size, kill=True).recovered
    assert recovered is not None
    empty = _start_with_one()
    yield Finding(
        f"kill -9 in the middle of {size:,}: to the first new acceptance",
        f"{recovered:.2f} s", f"start and a new job {empty:.2f} s", recovered / empty, recovered,
        at_most(5, "s"), at_most(10),
    )  # fmt: skip


def _start_with_one() -> float:
    """Seconds from the start of an agent, a job of one recipient in new/, to that one's acceptance."""
    with Sink() as sink, job.spool(sink) as agent:
        agent.drop("job", ["ada@one.example"])
        begun = time.monotonic()
        agent.start(wait=False)
        return sink.wait(1, 60) - begun
