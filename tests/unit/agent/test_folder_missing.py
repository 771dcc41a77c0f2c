"""A folder that is not where it should be is on its way, as long as that was seen once."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from spoold.agent.control_file import Control
from spoold.agent.purge import Purge
from spoold.storage.spooldir import Spool

JOB = [(1, "job", "active")]


def test_folder_that_is_missing_once_is_no_removed_job(spool: Spool) -> None:
    control = Control(spool)
    job = spool.path / "active/job"
    job.mkdir()
    (job / "job.yaml").write_text("sender: a@b.example\n")
    (first,) = control.look(JOB, 0.0)
    assert not first.missing
    for _ in range(3):
        job.rename(spool.path / "away")
        assert control.look(JOB, 0.0) == []
        (spool.path / "away").rename(job)
        assert not any(signal.missing for signal in control.look(JOB, 0.0))
    job.rename(spool.path / "away")
    assert control.look(JOB, 0.0) == []
    (signal,) = control.look(JOB, 0.0)
    assert signal.missing


@pytest.mark.parametrize("folder", ["active", "deferred"])
def test_purge_waits_for_the_last_report(spool: Spool, folder: str) -> None:
    forgotten: list[int] = []
    store = SimpleNamespace(ended_before=lambda _: [(1, "job")], forget=forgotten.append)
    purge = Purge(spool, cast("Any", store))
    (spool.path / folder / "job/report").mkdir(parents=True)
    assert purge.remove(100.0) == []
    assert forgotten == []
    assert (spool.path / folder / "job/report").is_dir()
    (spool.path / folder / "job").rename(spool.path / "done/job")
    assert purge.remove(100.0) == ["job"]
    assert forgotten == [1]
    assert not (spool.path / "done/job").exists()
