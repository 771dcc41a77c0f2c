"""The inputs that fuzzing began with or found, once more."""

from pathlib import Path

import pytest

from tests.fuzz import CORPUS
from tests.fuzz.target import TARGETS


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_input_breaks_nothing(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


def test_every_target_has_inputs() -> None:
    assert {path.name for path in CORPUS.iterdir()} == TARGETS.keys()
