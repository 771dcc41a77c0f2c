"""A database for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from spoold.storage.database import Database
from tests.unit.storage.admitting import opened


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with opened(tmp_path) as database:
        yield database
