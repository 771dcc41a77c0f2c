"""What an agent costs that has nothing to do: jobs deferred to the future and throttled ones, and one wake-up more."""

import time
from collections.abc import Iterator

from tests.bench import job
from tests.bench.row import Finding, Scale, Skipped, at_most, compared, progress
from tests.bench.sink import Sink
from tests.bench.usage import cpu_seconds
from tests.servers.agent import Agent, wait_for

_WAKES = 30
_SECONDS = 20.0
_LATER = "2035-01-01T00:00:00Z"


def idle(scale: Scale) -> Iterator[Finding]:
    """1,000 deferred and 200 throttled jobs: under 1 % of a core; a wake-up costs what it costs among a few."""
    if scale.deferred_jobs < 100:
        raise Skipped("not part of a quick run")
    progress("an idle agent with 12 jobs, and with 1,200")
    _, few = _measure(10, 2)
    share, many = _measure(1000, 200)
    yield Finding(
        f"idle with 1,200 jobs, over {_SECONDS:g} s", f"{share:.2%} of a core", "", None, share * 100, at_most(1, "%")
    )
    yield compared("a wake-up among 1,200 jobs", many * 1000, few * 1000, "ms", at_most(3), None, "among 12:")


def _measure(deferred: int, throttled: int) -> tuple[float, float]:
    """The share of a core that is used, and CPU seconds that one small job more costs."""
    with Sink() as sink, job.running(sink) as agent:
        _fill(agent, deferred, throttled)
        time.sleep(20)  # reports of what has just been taken; pages come last
        used, begun = cpu_seconds(agent.pid), time.monotonic()
        time.sleep(_SECONDS)
        share = (cpu_seconds(agent.pid) - used) / (time.monotonic() - begun)
        return share, _wake(agent, share)


def _fill(agent: Agent, deferred: int, throttled: int) -> None:
    """Drop so many jobs of either kind, and wait until they stand where they will stay."""
    for number in range(deferred):
        agent.drop(f"later-{number}", [f"u{number}@one.example"], manifest={"send_after": _LATER})
    for number in range(throttled):
        recipients = [f"u{number}-{n}@two.example" for n in range(5)]
        agent.drop(f"slow-{number}", recipients, manifest={"rate": "1/h"})
    jobs = deferred + throttled
    wait_for(lambda: len(agent.events("job.accepted")) == jobs, timeout=60 + jobs / 10)
    wait_for(lambda: len(list((agent.spool / "active").glob("slow-*"))) == throttled, timeout=30)


def _wake(agent: Agent, base: float) -> float:
    """CPU seconds from a small job's drop to its end; `base` is the idle share."""
    used, begun = cpu_seconds(agent.pid), time.monotonic()
    for number in range(_WAKES):
        agent.drop(f"wake-{number}", [f"a{number}@three.example"])
        agent.wait_state(f"wake-{number}", "finished")
    return (cpu_seconds(agent.pid) - used - base * (time.monotonic() - begun)) / _WAKES
