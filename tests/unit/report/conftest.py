"""The database of tests that fill its tables themselves, each anew: one for all in a file."""

from collections.abc import Iterator

import pytest

from spoold.storage.database import Database
from tests.unit.storage.admitting import opened


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with opened(tmp_path_factory.mktemp("report")) as database:
        yield database
