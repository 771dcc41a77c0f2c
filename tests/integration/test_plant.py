"""Anything, put anywhere by another user of the spool's group, at any moment: the agent starts, sends, obeys and stops.

Where to plant is not listed here: it is every path that an agent touches in the whole life of some jobs, as far as another
user may put something there. A run plants a sample, by a seed. `SPOOLD_PLANT_SEED` gives another one, and
`SPOOLD_PLANT_RUNS` how many lives are lived (8 without it); `python -m tests.plant` plants each thing by itself, for
hours.
"""

import asyncio
import os

import pytest

from tests.servers.inprocess import capture
from tests.servers.plantation import Life, ground, observe, sample
from tests.servers.relay import Relay

SEED = int(os.environ.get("SPOOLD_PLANT_SEED", "1"))
RUNS = int(os.environ.get("SPOOLD_PLANT_RUNS", "8"))

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Where something can be planted."""
    with pytest.MonkeyPatch.context() as patch, Relay() as relay:
        capture(patch)
        return asyncio.run(observe(tmp_path_factory.mktemp("observed"), relay))


def test_places_are_those_of_uploads_pickups_notices_reports_and_orders(places: list[str]) -> None:
    wanted = {
        "new/.claim-honest", "new/.taken-honest", "new/.pickup-letter.eml.00000000", "new/letter", "tmp/..notice.00000000",
        "JOB/report", "JOB/report/.status.json.tmp", "JOB/report/attempts.jsonl", "JOB/RETRY", "JOB/message.eml",
    }  # fmt: skip
    assert wanted - set(places) == set()


@pytest.mark.parametrize("number", range(RUNS))
def test_agent_starts_sends_obeys_and_stops_whatever_others_plant(number: int, places: list[str], relay: Relay) -> None:
    plan = sample(places, SEED, number)
    with ground() as folder:
        try:
            assert Life(folder, relay, plan).live() > 0
        except Exception as error:
            raise AssertionError(f"seed {SEED}, life {number}: {error!r}; planted {plan.plants}") from error
