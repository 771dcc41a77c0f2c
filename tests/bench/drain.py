"""The drain of a taken job of personalised messages (2 KB, a file each), against the bare client with nothing behind it.

Full durability (intent and outcome committed) and reports on; smtp-sink is the relay of both.

    python -m tests.bench.drain [MESSAGES] [CONNECTIONS]
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.sink import Sink, cpu_seconds
from tests.servers.agent import Agent, wait_for

SIZE = 2048
HEADER = (
    b"From: news@example.com\nTo: u%d@example.org\nSubject: bench\n"
    b"Date: Tue, 1 Dec 2026 09:00:00 +0000\nMessage-ID: <%d@example.com>\n\n"
)


def agent(messages: int, connections: int, port: int) -> tuple[float, float]:
    """(seconds, CPU seconds) from the release of the held job to its last outcome in the report."""
    with tempfile.TemporaryDirectory(prefix="spoold-bench-") as folder:
        config = {"log": {"format": "json", "level": "info"}}
        with Agent(Path(folder), port, relay={"connections": connections}, config=config) as process:
            files = {
                f"messages/{number}.eml": HEADER % (number, number) + (b"y" * 70 + b"\n") * (SIZE // 71)
                for number in range(messages)
            }
            rows = "address,message\n" + "".join(f"u{n}@example.org,messages/{n}.eml\n" for n in range(messages))
            process.start()
            process.drop("job", rows, message=None, files={**files, "HOLD": b""})
            process.wait_state("job", "held", timeout=120)
            used, begun = cpu_seconds(process.pid), time.monotonic()
            (process.spool / "deferred" / "job" / "HOLD").unlink()
            wait_for(lambda: any(event["state"] == "finished" for event in process.events("job.state")), timeout=120)
            return time.monotonic() - begun, cpu_seconds(process.pid) - used


def bare(messages: int, connections: int, port: int) -> tuple[float, float]:
    """The same of the bare client."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.bare", str(port), str(messages), str(SIZE), str(connections)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    seconds, used = map(float, done.stdout.split())
    return seconds, used


def main(messages: int, connections: int) -> None:
    """Prints both and their ratios."""
    with Sink() as sink:
        ours = agent(messages, connections, sink.port)
        base = bare(messages, connections, sink.port)
    for name, (seconds, used) in (("spoold", ours), ("bare client", base)):
        print(f"{name:12} {messages / seconds:>8.0f} messages/s {used / messages * 1e6:>8.0f} µs CPU a message")
    print(f"rate {base[0] / ours[0]:.2f} of the bare client's, CPU {ours[1] / base[1]:.2f} times its")


if __name__ == "__main__":
    main(*([int(argument) for argument in sys.argv[1:]] + [20_000, 20][len(sys.argv) - 1 :]))
