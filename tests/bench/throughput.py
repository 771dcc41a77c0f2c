"""How fast messages go, and at what CPU: against Postfix, and against the bare client with nothing behind it."""

import time
from collections.abc import Iterator

from tests.bench import bare, job
from tests.bench.postfix import Postfix
from tests.bench.row import Finding, Scale, at_least, at_most, compared, progress
from tests.bench.sink import Sink


def drain(scale: Scale) -> Iterator[Finding]:
    """A taken job of personalised messages, against Postfix's incoming queue."""
    # Its best of each: which set-up is faster depends on the machine, which one is cheaper does not.
    peers = [_postfix(scale.peer, cache=cache) for cache in (False, True)]
    rate, peer_cpu = max(peer[0] for peer in peers), min(peer[1] for peer in peers)
    progress(f"spoold drains {scale.drain} messages of a held job")
    sent, _, _ = job.drain(scale.drain, job.SIZE, job.CONNECTIONS)
    what = f"drain of {scale.drain:,} messages, {job.SIZE} bytes each; Postfix: {scale.peer:,} in incoming"
    yield compared(f"{what}: rate", sent.flow.rate, rate, "/s", at_least(5), at_least(0.5), "Postfix")
    ours = sent.cpu / scale.drain * 1e6
    yield compared("the same: CPU a message", ours, peer_cpu * 1e6, "µs", at_most(1 / 8), at_most(1.5), "Postfix")


def _postfix(messages: int, *, cache: bool) -> tuple[float, float]:
    """Messages a second, and CPU seconds a message, from the incoming queue to the sink."""
    progress(f"Postfix drains {messages} messages of its incoming queue, {'' if cache else 'no '}connection cache")
    with Sink() as sink, Postfix(sink, job.CONNECTIONS, cache=cache) as postfix:
        postfix.start(qmgr=False)
        postfix.fill(messages, job.SIZE)
        used = postfix.cpu_seconds()
        rate = sink.flow(messages, postfix.release, timeout=120).rate
        return rate, (postfix.cpu_seconds() - used) / messages


def end_to_end(scale: Scale) -> Iterator[Finding]:
    """From the finished upload to the last acceptance, against smtp-source into Postfix."""
    progress(f"smtp-source sends {scale.peer} messages through Postfix")
    with Sink() as sink, Postfix(sink, job.CONNECTIONS) as postfix:
        postfix.start()
        begun = time.monotonic()
        postfix.upload(scale.peer, job.SIZE, job.CONNECTIONS)
        rate = scale.peer / (sink.wait(scale.peer, timeout=120) - begun)
    progress(f"spoold takes and sends a job of {scale.drain} messages")
    with Sink() as sink, job.running(sink) as agent:
        folder = job.stage_personal(agent, "job", scale.drain)
        begun = time.monotonic()
        job.hand_over(agent, folder)
        ours = scale.drain / (sink.wait(scale.drain, timeout=120 + scale.drain / 50) - begun)
    what = f"end to end, {scale.drain:,} messages in one job; smtp-source: {scale.peer:,}"
    yield compared(what, ours, rate, "/s", at_least(10), at_least(0.5), "Postfix")


def cpu(scale: Scale) -> Iterator[Finding]:
    """CPU a message against the bare client."""
    progress("CPU against the bare client, personalised")
    sent, rate, peer_cpu = job.drain(scale.drain, job.SIZE, job.CONNECTIONS)
    ours = sent.cpu / scale.drain * 1e6
    what = f"CPU a message, {scale.drain:,} messages from a file each"
    yield compared(what, ours, peer_cpu * 1e6, "µs", at_most(2.5), at_most(30), "bare")
    yield compared("the same: rate", sent.flow.rate, rate, "/s", at_least(1 / 2.5), at_least(0.07), "bare")


def fan_out(scale: Scale) -> Iterator[Finding]:
    """One message to very many, a hundred recipients a transaction."""
    progress(f"one message to {scale.fan_out} recipients")
    each = 100
    messages = scale.fan_out // each
    with Sink() as sink, job.running(sink, each=each) as agent:
        agent.drop("job", job.addresses(scale.fan_out), message=job.message(0), files={"HOLD": b""})
        agent.wait_state("job", "held", timeout=60 + scale.fan_out / 1000)
        peer = bare.run(sink.port, messages, job.SIZE, job.CONNECTIONS, each).rate * each
        rate = job.send_held(agent, sink, messages).flow.rate * each
    yield Finding(
        f"one message to {scale.fan_out:,}, {each} recipients a transaction",
        f"{rate:,.0f} recipients/s", f"bare {peer:,.0f} recipients/s", rate / peer, rate,
        at_least(40_000, "recipients/s"), at_least(0.005),
    )  # fmt: skip


def latency(scale: Scale) -> Iterator[Finding]:
    """A relay far away."""
    connections, delay = 100, 0.02
    progress(f"{scale.latency} messages to a relay with {delay * 1000:g} ms a reply")
    sent, peer, _ = job.drain(scale.latency, job.SIZE, connections, delay)
    what = f"relay with {delay * 1000:g} ms a reply, {connections} connections, {scale.latency:,} messages"
    yield compared(what, sent.flow.rate, peer, "/s", at_least(0.9), at_least(0.1), "bare")


def large(scale: Scale) -> Iterator[Finding]:
    """Messages of 100 KB."""
    size = 100_000
    progress(f"{scale.large} messages of {size} bytes")
    sent, peer, _ = job.drain(scale.large, size, job.CONNECTIONS)
    what = f"{scale.large:,} messages of 100 KB, {job.CONNECTIONS} connections"
    yield compared(f"{what}: rate", sent.flow.rate, peer, "/s", at_least(0.8), at_least(0.15), "bare")
    limit = 0.1 * job.CONNECTIONS + 60
    yield Finding("the same: peak memory", f"{sent.peak:.0f} MB", "", None, sent.peak, at_most(limit, "MB"))
