"""Each kind of thing, planted by itself in each place at each moment. `python -m tests.plant [WORDS…]`: only plants that have them.

Prints what failed and goes on; exit code 1 if anything did.
"""

import asyncio
import itertools
import sys
import tempfile
from pathlib import Path

from tests.servers.neighbour import KINDS
from tests.servers.plantation import MOMENTS, Life, Plan, ground, observe
from tests.servers.relay import Relay


def main(words: list[str]) -> int:
    with Relay() as relay, tempfile.TemporaryDirectory() as folder:
        places = asyncio.run(observe(Path(folder), relay))
    plants = [
        plant
        for plant in itertools.product(KINDS, places, MOMENTS)
        if plant[0] != "nothing" and all(any(word in part for part in plant) for word in words)
    ]
    failed = 0
    for number, plant in enumerate(plants, 1):
        with ground() as life, Relay() as relay:
            try:
                planted = Life(life, relay, Plan((plant,))).live()
            except Exception as error:
                failed += 1
                print(f"{number}/{len(plants)} {plant}: {error!r}", flush=True)
            else:
                print(f"{number}/{len(plants)} {plant}: {'held' if planted else 'cannot be planted'}", flush=True)
    print(f"{failed} of {len(plants)} failed")
    return int(failed > 0)


sys.exit(main(sys.argv[1:]))
