"""When the projector writes what, with a reporter that only says what it was asked for."""

import asyncio
import contextlib
import time
from typing import cast

import pytest

from spoold.report.paper import LONG_AGO, Paper
from spoold.report.projector import Projector
from spoold.report.reporter import Reporter


class Asked(contextlib.nullcontext[None]):
    """As much of a reporter, and of its press, as the projector uses."""

    def __init__(self) -> None:
        super().__init__()
        self.press = self
        self.written: list[tuple[int, bool]] = []

    def write(self, papers: list[Paper], whole: bool) -> set[int]:
        self.written += [(paper.job_id, whole) for paper in papers]
        return set()

    def ended(self, job_ids: list[int]) -> set[int]:
        return {job_id for job_id in job_ids if job_id % 10 == 0}

    def finish(self, within: float) -> None:
        pass


async def test_stop_writes_whole_what_was_only_brought_up_to_date_in_its_status() -> None:
    asked = Asked()
    projector = Projector(cast("Reporter", asked))
    projector.refresh([1, 2, 3])
    running = asyncio.create_task(projector.run())
    while len(asked.written) < 3:
        await asyncio.sleep(0)
    await projector.stop()
    await running
    assert asked.written[:3] == [(1, False), (2, False), (3, False)]
    assert sorted(asked.written[3:]) == [(1, True), (2, True), (3, True)]


class Slow(Asked):
    """One that takes its time, and notes who was written by two threads at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now: set[int] = set()
        self.twice: set[int] = set()

    def write(self, papers: list[Paper], whole: bool) -> set[int]:
        ids = {paper.job_id for paper in papers}
        self.twice |= ids & self.now
        self.now |= ids
        time.sleep(0.05 * len(papers))  # as long as syncs may well take
        self.now -= ids
        return super().write(papers, whole)


async def test_stop_leaves_no_report_to_two_threads_at_once() -> None:
    slow = Slow()
    projector = Projector(cast("Reporter", slow))
    running = asyncio.create_task(projector.run())
    await asyncio.sleep(0)
    for job_id in range(1, 6):
        projector.accepted(job_id, 1_000_000)
        projector._papers[job_id].status_at = LONG_AGO  # its list has to wait, its status has not
    await projector.stop()
    await running
    assert not slow.twice
    assert {job_id for job_id, whole in slow.written if whole} == {1, 2, 3, 4, 5}


async def test_stop_writes_all_that_has_ended_and_of_the_rest_only_what_a_moment_permits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The start writes the others anew."""
    monkeypatch.setattr("spoold.report.projector._LAST_REPORTS", -1.0)
    asked = Asked()
    projector = Projector(cast("Reporter", asked))
    running = asyncio.create_task(projector.run())
    await asyncio.sleep(0)
    for job_id in range(1, 41):
        projector.accepted(job_id, 1)
    projector.refresh(range(100, 200))
    await projector.stop()
    await running
    whole = [job_id for job_id, whole in asked.written if whole]
    assert sorted(whole) == [10, 20, 30, 40, *range(100, 200, 10)]


async def test_report_that_waits_for_its_thread_when_the_end_comes_is_written_by_the_end() -> None:
    slow = Slow()
    projector = Projector(cast("Reporter", slow))
    running = asyncio.create_task(projector.run())
    await asyncio.sleep(0)
    for job_id in range(10, 1010, 10):
        projector.changed(job_id, moved=True)
    while not slow.now:
        await asyncio.sleep(0)
    await projector.stop()
    await running
    assert not slow.twice
    assert sorted(job_id for job_id, whole in slow.written if whole) == list(range(10, 1010, 10))
    assert projector.busy_since is None
