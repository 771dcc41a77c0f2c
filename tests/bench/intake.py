"""How fast jobs are taken: one of very many recipients, while others send; and very many of one recipient each."""

import time
from collections.abc import Iterator

from tests.bench import job
from tests.bench.postfix import Postfix
from tests.bench.row import Finding, Scale, at_least, at_most, compared, progress
from tests.bench.sink import Sink
from tests.servers.agent import wait_for

#: Seconds over which the undisturbed rate is measured.
_CALM = 5.0


def large(scale: Scale) -> Iterator[Finding]:
    """One job of very many recipients, while another job is sent at full speed."""
    count, small = scale.intake, scale.intake // 10
    progress(f"intake of {small} and of {count} recipients with nothing else to do")
    alone = {size: _first(size) for size in (small, count)}
    growth = alone[count] / count / (alone[small] / small)
    yield Finding(
        f"intake of {count:,} recipients to the first acceptance (seconds a million)",
        f"{alone[count]:.2f} s", f"{small:,}: {alone[small]:.2f} s", growth, alone[count] / count * 1e6,
        at_most(30, "s"), at_most(3),
    )  # fmt: skip
    progress(f"intake of {count} recipients while another job is sent")
    before, during, first = _disturbed(count)
    yield compared("the other job's rate meanwhile", during, before, "/s", at_least(0.8), at_least(0.1), "before")
    yield Finding(
        "the same: to the first acceptance (seconds a million)",
        f"{first:.2f} s", "", None, first / count * 1e6, at_most(30, "s"),
    )  # fmt: skip


def _first(count: int) -> float:
    with Sink() as sink, job.running(sink) as agent:
        folder = agent.write_job(agent.spool / "tmp" / "job", job.addresses(count), message=job.message(0))
        begun = time.monotonic()
        job.hand_over(agent, folder)
        return sink.wait(1, 60 + count / 1000) - begun


def _disturbed(count: int) -> tuple[float, float, float]:
    """The other job's messages a second before and during the intake; seconds to the first acceptance."""
    with Sink() as busy, Sink() as sink:
        relay = {"host": "127.0.0.1", "security": "none", "connections": job.CONNECTIONS}
        relays = {
            "default": relay | {"port": sink.port},
            "busy": relay | {"port": busy.port, "recipients_per_message": 1},
        }
        with job.running(sink, config={"relays": relays}) as agent:
            # More than can be sent in the meantime.
            others = job.addresses(count)
            manifest = {"relay": "busy"}
            agent.drop("other", others, message=job.message(1), manifest=manifest)
            folder = agent.write_job(agent.spool / "tmp" / "job", job.addresses(count), message=job.message(0))
            busy.wait(500, 60 + count / 1000)
            base, begun = busy.accepted, time.monotonic()
            time.sleep(min(_CALM, count / 20_000))
            before = (busy.accepted - base) / (time.monotonic() - begun)
            base, begun = busy.accepted, time.monotonic()
            job.hand_over(agent, folder)
            first = sink.wait(1, 120 + count / 500) - begun
            status = agent.status("other")
            assert status is not None
            assert status["counts"]["queued"], "the other job has ended: nothing was measured"
            return before, (busy.accepted - base) / first, first


def small(scale: Scale) -> Iterator[Finding]:
    """Very many jobs of one recipient each, dropped at once, against sendmail(1)."""
    progress(f"sendmail hands {scale.sendmail} messages to Postfix")
    with Sink() as sink, Postfix(sink, job.CONNECTIONS) as postfix:
        postfix.start()
        begun = time.monotonic()
        postfix.submit(scale.sendmail, job.SIZE, processes=8)
        rate = scale.sendmail / (sink.wait(scale.sendmail, 120) - begun)
    progress(f"{scale.small_jobs} jobs of one recipient")
    with Sink() as sink, job.running(sink) as agent:
        folders = [
            agent.write_job(
                agent.spool / "tmp" / f"job{number}", [f"u{number}@example.org"], message=job.message(number)
            )
            for number in range(scale.small_jobs)
        ]
        begun = time.monotonic()
        for folder in folders:
            job.hand_over(agent, folder)
        ours = scale.small_jobs / (sink.wait(scale.small_jobs, 120 + scale.small_jobs / 10) - begun)
        wait_for(lambda: not any((agent.spool / "active").iterdir()), 120, "the last job's end")
    what = f"{scale.small_jobs:,} jobs of one recipient at once; sendmail: {scale.sendmail:,}"
    yield compared(what, ours, rate, "/s", at_least(3), at_least(0.3), "Postfix")
