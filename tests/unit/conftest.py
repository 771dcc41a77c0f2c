"""A real spool for the parts that work on one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from spoold.storage.files import Files
from spoold.storage.spooldir import Spool


@pytest.fixture
def files() -> Files:
    """What the spool works by; a module may put its own in place of it."""
    return Files()


@pytest.fixture
def spool(tmp_path: Path, files: Files) -> Iterator[Spool]:
    """A new spool, open, in `tmp_path`."""
    Spool.create(tmp_path)
    opened = Spool(tmp_path, files)
    yield opened
    opened.close()
