"""What an agent costs that has nothing to do: 1,000 jobs deferred to the future and 200 throttled ones, and one wake-up more.

Limits: under 1 % of a core; a wake-up among 1,000 jobs no more than 3 times one among 10.

    python -m tests.bench.idle [SECONDS]
"""

import sys
import tempfile
import time
from pathlib import Path

from tests.bench.sink import Sink, cpu_seconds
from tests.servers.agent import Agent, wait_for

SHARE = 0.01
RATIO = 3.0
WAKES = 30
LATER = "2035-01-01T00:00:00Z"


def fill(agent: Agent, deferred: int, throttled: int) -> None:
    """Drop so many jobs of either kind, and wait until they stand where they will stay."""
    for number in range(deferred):
        agent.drop(f"later-{number}", [f"u{number}@one.example"], manifest={"send_after": LATER})
    for number in range(throttled):
        recipients = [f"u{number}-{n}@two.example" for n in range(5)]
        agent.drop(f"slow-{number}", recipients, manifest={"rate": "1/h"})
    jobs = deferred + throttled
    wait_for(lambda: len(agent.events("job.accepted")) == jobs, timeout=60 + jobs / 10)
    wait_for(lambda: len(list((agent.spool / "active").glob("slow-*"))) == throttled, timeout=30)


def idle(agent: Agent, seconds: float) -> float:
    """The share of a core that the agent uses."""
    time.sleep(20)  # reports of what has just been taken; pages come last
    used, begun = cpu_seconds(agent.pid), time.monotonic()
    time.sleep(seconds)
    return (cpu_seconds(agent.pid) - used) / (time.monotonic() - begun)


def wake(agent: Agent, base: float) -> float:
    """CPU seconds that one more small job costs, from its drop to its end; `base` is the idle share."""
    used, begun = cpu_seconds(agent.pid), time.monotonic()
    for number in range(WAKES):
        agent.drop(f"wake-{number}", [f"a{number}@three.example"])
        agent.wait_state(f"wake-{number}", "finished")
    return (cpu_seconds(agent.pid) - used - base * (time.monotonic() - begun)) / WAKES


def main(seconds: float) -> int:
    """Prints a table; 1 beyond a limit."""
    costs = []
    failed = False
    print(f"{'jobs':>6} {'idle':>8} {'a wake-up':>12}")
    for deferred, throttled in ((10, 2), (1000, 200)):
        log = {"format": "json", "level": "info"}
        with (
            tempfile.TemporaryDirectory(prefix="spoold-bench-") as folder,
            Sink() as sink,
            Agent(Path(folder), sink.port, config={"log": log}) as agent,
        ):
            agent.start()
            fill(agent, deferred, throttled)
            share = idle(agent, seconds)
            costs.append(wake(agent, share))
            failed = failed or share > SHARE
            print(f"{deferred + throttled:>6} {share:>8.2%} {costs[-1] * 1000:>9.1f} ms", flush=True)
    ratio = costs[1] / costs[0]
    print(f"idle limit {SHARE:.0%}; a wake-up costs {ratio:.2f} times as much (limit {RATIO:g})")
    return int(failed or ratio > RATIO)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 30))
