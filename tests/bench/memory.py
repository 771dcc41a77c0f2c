"""Peak memory while one message is sent to 10,000 and to 100,000 recipients, one transaction each: must stay within 1.5×.

python -m tests.bench.memory [RECIPIENTS…]
"""

import sys
import tempfile
import time
from pathlib import Path

from tests.bench.sink import Sink, cpu_seconds, peak_memory
from tests.servers.agent import Agent

LIMIT = 1.5


def measure(recipients: int) -> tuple[float, float, float]:
    """(peak in MB, seconds from the drop to the finished report, CPU in µs a recipient)."""
    with tempfile.TemporaryDirectory(prefix="spoold-bench-") as folder, Sink() as sink:
        relay = {"recipients_per_message": 1, "connections": 20}
        with Agent(Path(folder), sink.port, relay=relay, config={"log": {"format": "json", "level": "info"}}) as agent:
            agent.start()
            begun = time.monotonic()
            agent.drop("job", [f"user{number}@domain{number % 500}.example" for number in range(recipients)])
            status = agent.wait_state("job", "finished", timeout=60 + recipients / 200)
            seconds = time.monotonic() - begun
            assert status["counts"]["sent"] == recipients, status
            return peak_memory(agent.pid), seconds, cpu_seconds(agent.pid) / recipients * 1e6


def main(sizes: list[int]) -> int:
    """Prints a table; 1 if the last size needs more than `LIMIT` times the memory of the first."""
    print(f"{'recipients':>10} {'peak MB':>8} {'seconds':>8} {'a second':>9} {'CPU µs each':>12}")
    peaks = []
    for size in sizes:
        peak, seconds, cpu = measure(size)
        peaks.append(peak)
        print(f"{size:>10} {peak:>8.1f} {seconds:>8.1f} {size / seconds:>9.0f} {cpu:>12.0f}", flush=True)
    ratio = peaks[-1] / peaks[0]
    print(f"peak memory of {sizes[-1]} against {sizes[0]}: {ratio:.2f}× (limit {LIMIT}×)")
    return int(ratio > LIMIT)


if __name__ == "__main__":
    sys.exit(main([int(size) for size in sys.argv[1:]] or [10_000, 100_000]))
