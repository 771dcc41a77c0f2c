"""Brings what people see in line with the database: each job's report, and the folder that it stands in.

The projector is told which jobs changed, coalesces, and writes on its own clock, off the event loop: never in the way
of sending. A job is written whole before it changes folder, so that what lies there is exact.
"""

import asyncio
import contextlib
import errno
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from spoold.event import log
from spoold.report.paper import LONG_AGO, Paper
from spoold.report.reporter import LARGE, Reporter
from spoold.storage.database import DatabaseError

_TICK = 0.25
#: The least seconds between two rounds, and how many jobs a thread gets at once in one.
_PASS = 0.05
_BATCH = 25
#: The least seconds between two writings of a job's status, and of its lists; and at least `_SHARE` times what the last one
#: took of a core, but a status is never more than two seconds behind (CONTRACT §5).
_STATUS_EVERY = 1.0
_STATUS_LATEST = 1.7
_TABLE_EVERY = 2.0
_SHARE = 300.0
#: How long a job that was taken may be without a report.
_FIRST = 0.3
#: What a row of its list takes to be written, about, in seconds; how long the whole list took counts once it was written.
_ROW = 5e-6
#: How long the end writes reports of jobs that go on, in seconds.
_LAST_REPORTS = 3.0
_LAST_PAGES = 1.0
#: After each report that is only brought up to date after a start: the rest, in times of what it took.
_STATUS_REST = 3.0
_TABLE_REST = 9.0


class Projector:
    """See the module; `reporter` does the writing."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._papers: dict[int, Paper] = {}
        self._pending: set[int] = set()
        # One each: threads that write at the same time take Python's lock from each other at every step.
        self._quick = ThreadPoolExecutor(1, thread_name_prefix="status")
        self._small = ThreadPoolExecutor(1, thread_name_prefix="report")
        self._large = ThreadPoolExecutor(1, thread_name_prefix="list")
        self._tasks: dict[asyncio.Task[None], float] = {}
        self._stale: deque[tuple[int, bool]] = deque()
        self._catching_up: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._stopping = False

    def changed(self, job_id: int, *, moved: bool = False) -> None:
        """The database says something new about a job; `moved`: its state, and so maybe its folder. For the event loop."""
        paper = self._papers.setdefault(job_id, Paper(job_id))
        paper.dirty = paper.table_dirty = True
        if not self._pending:
            self._wake.set()
        self._pending.add(job_id)
        if moved:
            paper.status_at = paper.table_at = LONG_AGO
            paper.table_cost = paper.status_cost = 0.0
            self._wake.set()

    def accepted(self, job_id: int, total: int) -> None:
        """A job with so many recipients was taken. Its report comes a moment later, and its list later the longer it is:
        many a small job is through by then, and is written once; of a large one there is nothing to tell for a while.
        """
        paper = self._papers.setdefault(job_id, Paper(job_id))
        now = time.monotonic() + _FIRST
        paper.status_at, paper.table_at = now - _STATUS_EVERY, now - _TABLE_EVERY
        paper.table_cost = total * _ROW
        paper.small = total <= LARGE
        self.changed(job_id)

    def refresh(self, job_ids: Sequence[int]) -> None:
        """These jobs' reports may be out of date, as after a kill: before `run`, which writes them behind all others, the
        statuses first.
        """
        self._stale.extend((job_id, whole) for whole in (False, True) for job_id in job_ids)

    @property
    def settled(self) -> bool:
        """Everything known is written."""
        return not any(paper.dirty or paper.table_dirty or paper.busy for paper in self._papers.values())

    @property
    def busy_since(self) -> float | None:
        """Since when, in monotonic seconds, what was begun first of that which is not written yet is waited for."""
        return min(self._tasks.values(), default=None)

    async def run(self) -> None:
        """Write until `stop`."""
        self._catching_up = asyncio.get_running_loop().create_task(self._catch_up())
        with self._reporter.press:
            while not self._stopping:
                if self._pending:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_TICK):
                            await self._wake.wait()
                else:
                    await self._wake.wait()
                self._wake.clear()
                if self._stopping:
                    break  # what is left is `stop`'s: no report is written by two threads
                self._start_due()
                # What changes meanwhile is written together.
                await asyncio.sleep(_PASS)

    async def stop(self) -> None:
        """Write what is not written yet, then end: all of jobs that have ended; of those that go on, and are written anew by the
        next start, as much as a moment permits.
        """
        self._stopping = True
        self._wake.set()
        if self._catching_up is not None:
            self._catching_up.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)
        loop = asyncio.get_running_loop()
        changed = [paper.job_id for paper in self._papers.values() if paper.dirty or paper.table_dirty]
        # Of the stale ones perhaps the status alone was brought up to date.
        stale = [job_id for job_id, whole in self._stale if whole]
        job_ids = list(dict.fromkeys([*changed, *stale]))
        ended = set(await loop.run_in_executor(self._large, self._reporter.ended, job_ids))
        until = time.monotonic() + _LAST_REPORTS
        for job_id in sorted(job_ids, key=lambda job_id: job_id not in ended):
            if job_id not in ended and time.monotonic() > until:
                break
            paper = self._papers.setdefault(job_id, Paper(job_id))
            paper.dirty = paper.table_dirty = False
            await loop.run_in_executor(self._large, self._reporter.write, [paper], True)
        await loop.run_in_executor(self._large, self._reporter.press.finish, _LAST_PAGES)
        for threads in (self._quick, self._small, self._large):
            threads.shutdown()

    def _start_due(self) -> None:
        now = time.monotonic()
        due: dict[tuple[bool, bool], list[Paper]] = {}
        for job_id in list(self._pending):
            paper = self._papers[job_id]
            if not (paper.dirty or paper.table_dirty):
                self._pending.discard(job_id)
                continue
            if paper.busy:
                continue
            table = paper.table_dirty and now - paper.table_at >= max(_TABLE_EVERY, _SHARE * paper.table_cost)
            rest = min(max(_STATUS_EVERY, _SHARE * paper.status_cost), _STATUS_LATEST)
            if not table and not (paper.dirty and now - paper.status_at >= rest):
                continue
            paper.busy = True
            paper.dirty = False
            if table:
                paper.table_dirty = False
            due.setdefault((table, paper.small), []).append(paper)
        for (table, _), papers in due.items():
            for start in range(0, len(papers), _BATCH):
                self._start(papers[start : start + _BATCH], table)

    async def _catch_up(self) -> None:
        while self._stale:
            job_id, whole = self._stale[0]
            paper = self._papers.setdefault(job_id, Paper(job_id, dirty=False, table_dirty=False))
            # One that is dirty is written anyway.
            if not (paper.busy or paper.dirty or paper.table_dirty):
                paper.busy = True
                begun = time.monotonic()
                await asyncio.wait([self._start([paper], whole)])
                await asyncio.sleep((_TABLE_REST if whole else _STATUS_REST) * (time.monotonic() - begun))
            self._stale.popleft()

    def _start(self, papers: list[Paper], whole: bool) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._write(papers, whole))
        self._tasks[task] = time.monotonic()
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, DatabaseError):
            # A database that failed ends the agent, and says so itself.
            log("agent.task_failed", where="report", error=f"{type(error).__name__}: {error}")

    async def _write(self, papers: list[Paper], whole: bool) -> None:
        loop = asyncio.get_running_loop()
        try:
            threads = self._small if all(paper.small for paper in papers) else self._large
            done = await loop.run_in_executor(
                threads if whole else self._quick, self._write_unless_stopping, papers, whole
            )
        finally:
            for paper in papers:
                paper.busy = False
        if done is None:
            for paper in papers:
                paper.dirty, paper.table_dirty = True, paper.table_dirty or whole
            return
        for paper in papers:
            if paper.job_id in done:
                # Whatever it was told meanwhile: of a job that has ended there is nothing new.
                self._papers.pop(paper.job_id, None)
                self._pending.discard(paper.job_id)
            elif paper.dirty or paper.table_dirty:
                self._pending.add(paper.job_id)

    def _write_unless_stopping(self, papers: list[Paper], whole: bool) -> set[int] | None:
        """In a thread: what still waits for it when the end comes is `stop`'s."""
        return None if self._stopping else self._reporter.write(papers, whole)

    # --- in a thread ------------------------------------------------------------------------------------------------

    def write(self, job_id: int) -> None:
        """Write a job's whole report now, and put it into its folder. For threads, and for jobs that nobody else
        writes. Raises OSError where it cannot be written: that was told of, and is to be tried again.
        """
        paper = Paper(job_id, new=True)
        self._reporter.write([paper], True)
        if paper.error is not None:
            raise OSError(errno.EAGAIN, f"its report cannot be written: {paper.error}")
