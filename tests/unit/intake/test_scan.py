"""What intake does when the agent ends."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from zoneinfo import ZoneInfo

from spoold.core.completeness import IntakePolicy
from spoold.core.terms import Defaults
from spoold.intake.scan import Intake
from spoold.intake.settings import Settings
from spoold.storage.files import Files
from spoold.storage.spooldir import Spool


class Listed(Spool):
    """A real spool; `then` is called when its folders have been listed."""

    then: Callable[[], None]

    def jobs(self, folder: str) -> list[str]:
        found = list(super().jobs(folder))
        self.then()
        return found


def test_scan_that_the_end_overtakes_takes_nothing_and_raises_nothing(tmp_path: Path) -> None:
    Spool.create(tmp_path)
    (tmp_path / "new" / "job").mkdir()
    spool = Listed(tmp_path, Files())
    nobody = cast(Any, None)
    defaults = Defaults(ZoneInfo("UTC"), nobody, nobody)
    settings = Settings(IntakePolicy(), defaults, ())
    intake = Intake(
        spool,
        nobody,
        settings,
        nobody,
        clock=time.time,
        monotonic=time.monotonic,
        report=nobody,
        accepted=nobody,
        reserve=0,
    )
    spool.then = intake.stop
    assert intake.scan() is None
    spool.close()
