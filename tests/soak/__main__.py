"""Soak the agent: mixed jobs, faults of the relay, kills, and an audit of all of it. Exits 1 if anything is wrong.

python -m tests.soak [SECONDS] [--seed N] [--plan]
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.soak.plan import plan
from tests.soak.run import Soak
from tests.soak.verdict import judge, table


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("seconds", nargs="?", type=float, default=120.0, help="how long there is trouble (120)")
    parser.add_argument("--seed", type=int, help="decides everything; a random one without")
    parser.add_argument("--plan", action="store_true", help="print what would be done, and when; do nothing")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    steps = plan(seed, options.seconds)
    print(f"seed {seed}: {len(steps)} steps in {options.seconds:g} s", flush=True)
    if options.plan:
        for at, step in steps:
            print(f"{at:8.2f}  {step}")
        return 0
    # One that is told to end takes its agent with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    root = Path(tempfile.mkdtemp(prefix="spoold-soak-"))
    print(f"in {root}", flush=True)
    with Soak(root) as soak:
        soak.run(steps, seconds=options.seconds, patience=120)
        verdict = judge(soak.agent, soak.accepted(), soak.facts)
        print(table(verdict, soak.facts))
    for line in verdict.wrong[:100]:
        print(f"wrong: {line}")
    if verdict.wrong:
        print(f"All that was left is in {root}")
        return 1
    shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
