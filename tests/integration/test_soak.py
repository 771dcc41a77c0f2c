"""A short soak with a fixed seed, and that its audit sees what it is there to see."""

from pathlib import Path

import pytest

from tests.soak.plan import plan
from tests.soak.run import Soak
from tests.soak.verdict import IN_DOUBT, judge

SECONDS = 10.0
SEED = 10


def test_same_seed_gives_the_same_steps_and_another_gives_others() -> None:
    assert plan(1, 60) == plan(1, 60)
    assert plan(1, 60) != plan(2, 60)
    assert plan(1, 60)[: len(plan(1, 20))] == plan(1, 20), "a longer soak begins as the shorter one"


@pytest.mark.timeout(300)
def test_soak_loses_nothing_and_its_audit_would_see_if_it_did(tmp_path: Path) -> None:
    with Soak(tmp_path) as soak:
        soak.run(plan(SEED, SECONDS), seconds=SECONDS, patience=120)
        accepted = soak.accepted()
        verdict = judge(soak.agent, accepted, soak.facts)
        assert verdict.wrong == []
        assert (verdict.lost, verdict.unexplained) == (0, 0)
        assert verdict.states["sent"] > 100
        assert soak.facts.kills, "nothing was killed: this run has tested little"

        missing = judge(soak.agent, accepted[1:], soak.facts)
        assert missing.lost == len(accepted[0].recipients)
        twice = judge(soak.agent, [*accepted, accepted[0]], soak.facts)
        assert twice.unexplained == len(accepted[0].recipients)
        soak.facts.recovered.append(IN_DOUBT + 1)
        assert any(line.startswith("more in doubt") for line in judge(soak.agent, accepted, soak.facts).wrong)
