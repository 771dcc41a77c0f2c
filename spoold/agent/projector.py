"""Brings what people see in line with the database: each job's report, and the folder that it stands in.

The projector is told which jobs changed, coalesces, and writes on its own clock, off the event loop: never in the way
of sending. A job is written whole before it changes folder, so that what lies there is exact.
"""

import asyncio
import contextlib
import errno
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import tzinfo
from zoneinfo import ZoneInfo

from spoold.agent.event import log
from spoold.agent.press import Press
from spoold.agent.terms import manifest_of
from spoold.core.completeness import REPORT
from spoold.core.document import DocumentError
from spoold.core.problem import printable
from spoold.core.state import Standing
from spoold.failpoint import failpoint
from spoold.report.statistics import DOMAINS, REPLIES, statistics_json
from spoold.report.status import Status, status_json, status_text
from spoold.report.table import attempt_line, recipients_csv
from spoold.storage.database import DatabaseError
from spoold.storage.ledger import Ledger
from spoold.storage.record import JobRow
from spoold.storage.spooldir import FOLDERS, Spool
from spoold.storage.store import Store

_TICK = 0.25
#: The least seconds between two writings of a job's status; between two of its lists, at least this and `_SHARE` times
#: what the last one took.
_STATUS_EVERY = 1.0
_TABLE_EVERY = 2.0
_SHARE = 40.0
_MARK_EVERY = 30.0
#: After each report that is only brought up to date after a start: the rest, in times of what it took.
_STATUS_REST = 3.0
_TABLE_REST = 9.0
_ETA_EVERY = 2.0
_ETA_SHARE = 500.0
_SPEED_SPAN = 60.0
_FLUSH = 1 << 18
_LONG_AGO = float("-inf")


@dataclass(slots=True)
class _Paper:
    """What the projector remembers of one job. Moments are monotonic seconds."""

    job_id: int
    dirty: bool = True
    busy: bool = False
    new: bool = False  # nobody sends it yet: its page is left to the first change
    status_at: float = _LONG_AGO
    table_at: float = _LONG_AGO
    table_cost: float = 0.0
    table_dirty: bool = True
    attempts: tuple[int, int] | None = None
    marked_at: float = 0.0
    samples: deque[tuple[float, int]] = field(default_factory=deque)
    last_error: str | None = None
    eta: float | None = None
    eta_for: Standing | None = None
    eta_again: float = 0.0


@dataclass(frozen=True, slots=True)
class _Facts:
    """What a report shows of the manifest."""

    description: str
    sender: str
    zone: tzinfo


class Projector:
    """See the module. `relay_fault` gives the trouble of a job's relay, `eta` when a job would be
    through at its present speed; `zone` is for jobs that name none."""

    def __init__(
        self,
        spool: Spool,
        store: Store,
        ledger: Ledger,
        *,
        clock: Callable[[], float],
        relay_fault: Callable[[int], str | None],
        eta: Callable[[int, float | None], float | None],
        zone: Callable[[], ZoneInfo],
    ) -> None:
        self._spool = spool
        self._store = store
        self._ledger = ledger
        self._clock = clock
        self._relay_fault = relay_fault
        self._eta = eta
        self._zone = zone
        self._press = Press(spool, ledger)
        self._papers: dict[int, _Paper] = {}
        self._pending: set[int] = set()
        self._quick = ThreadPoolExecutor(1, thread_name_prefix="status")
        self._slow = ThreadPoolExecutor(2, thread_name_prefix="report")
        self._tasks: set[asyncio.Task[None]] = set()
        self._stale: deque[tuple[int, bool]] = deque()
        self._catching_up: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._stopping = False

    def changed(self, job_id: int, *, moved: bool = False) -> None:
        """The database says something new about a job; `moved`: its state, and so maybe its folder. For the event loop."""
        paper = self._papers.setdefault(job_id, _Paper(job_id))
        paper.dirty = paper.table_dirty = True
        if not self._pending:
            self._wake.set()
        self._pending.add(job_id)
        if moved:
            paper.status_at = paper.table_at = _LONG_AGO
            paper.table_cost = 0.0
            self._wake.set()

    def refresh(self, job_ids: Sequence[int]) -> None:
        """These jobs' reports may be out of date, as after a kill: before `run`, which writes them behind all others, the
        statuses first.
        """
        self._stale.extend((job_id, whole) for whole in (False, True) for job_id in job_ids)

    @property
    def settled(self) -> bool:
        """Everything known is written."""
        return not any(paper.dirty or paper.table_dirty or paper.busy for paper in self._papers.values())

    async def run(self) -> None:
        """Write until `stop`."""
        self._catching_up = asyncio.get_running_loop().create_task(self._catch_up())
        with self._press:
            while not self._stopping:
                if self._pending:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_TICK):
                            await self._wake.wait()
                else:
                    await self._wake.wait()
                self._wake.clear()
                self._start_due()

    async def stop(self) -> None:
        """Write everything that is not written yet, then end."""
        self._stopping = True
        self._wake.set()
        if self._catching_up is not None:
            self._catching_up.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)
        loop = asyncio.get_running_loop()
        stale = [self._papers.get(job_id) or _Paper(job_id) for job_id, whole in self._stale if whole]
        for paper in {paper.job_id: paper for paper in (*self._papers.values(), *stale)}.values():
            if paper.dirty or paper.table_dirty:
                paper.dirty = paper.table_dirty = False
                await loop.run_in_executor(self._slow, self._project, paper, True)
        await loop.run_in_executor(self._slow, self._press.finish)
        self._quick.shutdown()
        self._slow.shutdown()

    def _start_due(self) -> None:
        now = time.monotonic()
        for job_id in list(self._pending):
            paper = self._papers[job_id]
            if not (paper.dirty or paper.table_dirty):
                self._pending.discard(job_id)
                continue
            if paper.busy:
                continue
            table = paper.table_dirty and now - paper.table_at >= max(_TABLE_EVERY, _SHARE * paper.table_cost)
            if not table and not (paper.dirty and now - paper.status_at >= _STATUS_EVERY):
                continue
            paper.busy = True
            paper.dirty = False
            if table:
                paper.table_dirty = False
            self._start(paper, table)

    async def _catch_up(self) -> None:
        while self._stale:
            job_id, whole = self._stale[0]
            paper = self._papers.setdefault(job_id, _Paper(job_id, dirty=False, table_dirty=False))
            # One that is dirty is written anyway.
            if not (paper.busy or paper.dirty or paper.table_dirty):
                paper.busy = True
                begun = time.monotonic()
                await asyncio.wait([self._start(paper, whole)])
                await asyncio.sleep((_TABLE_REST if whole else _STATUS_REST) * (time.monotonic() - begun))
            self._stale.popleft()

    def _start(self, paper: _Paper, whole: bool) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._write(paper, whole))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, DatabaseError):
            # A database that failed ends the agent, and says so itself.
            log("agent.task_failed", where="report", error=f"{type(error).__name__}: {error}")

    async def _write(self, paper: _Paper, whole: bool) -> None:
        loop = asyncio.get_running_loop()
        try:
            done = await loop.run_in_executor(self._slow if whole else self._quick, self._project, paper, whole)
        finally:
            paper.busy = False
        if done and not (paper.dirty or paper.table_dirty):
            self._papers.pop(paper.job_id, None)
            self._pending.discard(paper.job_id)
        elif paper.dirty or paper.table_dirty:
            self._pending.add(paper.job_id)

    # --- in a thread ------------------------------------------------------------------------------------------------

    def write(self, job_id: int) -> None:
        """Write a job's whole report now, and put it into its folder. For threads, and for jobs that nobody else
        writes.
        """
        self._project(_Paper(job_id, new=True), True)

    def _project(self, paper: _Paper, whole: bool) -> bool:
        """Returns whether nothing more is to be expected of the job."""
        try:
            return self._write_job(paper, whole)
        except OSError as error:
            text = f"{error.strerror or error} ({error.filename or 'report'})"
            if text != paper.last_error:
                log("report.failed", job=paper.job_id, error=text)
            paper.last_error = text
            paper.dirty = paper.table_dirty = True
            paper.status_at = paper.table_at = time.monotonic()
            return False

    def _write_job(self, paper: _Paper, whole: bool) -> bool:
        job = self._store.job(paper.job_id)
        if job is None:
            return True
        here = self._spool.find(job.name, FOLDERS[1:])
        target = job.state.folder
        if here is None:
            if not job.state.final:
                return False  # whoever watches the folders finds out, and ends the job
            # Made where nobody looks for a report yet; the move publishes it whole.
            here = "active"
            self._spool.files.make_directory(self._spool.fd(here), job.name)
        moving = here != target
        final = job.state.final
        # A job that becomes active was written whole when it was deferred; nothing has been sent since.
        whole = whole or final or (moving and target != "active")
        files = self._spool.files
        facts = _facts(job, self._zone())
        with self._spool.job(here, job.name) as root:
            with contextlib.suppress(FileExistsError):
                files.make_directory(root, REPORT)
            with files.closing(files.open_directory(root, REPORT)) as report:
                status = self._write_status(paper, job, facts, report, durable=final)
                self._append_attempts(paper, job, facts.zone, report, durable=final)
                if whole:
                    self._write_table(paper, job, facts.zone, report, durable=final)
                if moving or final or (whole and not paper.new and self._press.wants(status)):
                    self._press.print_now(status, report, durable=final)
                elif not paper.new:
                    self._press.offer(status)
        if moving:
            failpoint("before-move")
            self._spool.move(job.name, here, target)
            failpoint("after-move")
        paper.last_error = None
        return final

    def _write_status(self, paper: _Paper, job: JobRow, facts: _Facts, report: int, *, durable: bool) -> Status:
        now = self._clock()
        counts = self._ledger.counts(job.id)
        speed = _speed(paper, sum(count for state, count in counts.items() if state.final))
        fault = None if job.state.final else self._relay_fault(job.id)
        self._foresee(paper, job, speed)
        status = Status(job, facts.description, facts.sender, counts, facts.zone, now, fault, speed, paper.eta)
        files = self._spool.files
        files.replace(report, "status.json", [status_json(status)], durable=durable)
        files.replace(report, "status.txt", [status_text(status)], durable=durable)
        statistics = statistics_json(
            counts,
            self._ledger.domains(job.id, DOMAINS),
            self._ledger.replies(job.id, REPLIES),
            self._ledger.attempt_count(job.id),
            speed,
            facts.zone,
            now,
        )
        files.replace(report, "statistics.json", [statistics], durable=durable)
        failpoint("report-written")
        paper.status_at = time.monotonic()
        return status

    def _foresee(self, paper: _Paper, job: JobRow, speed: float | None) -> None:
        """Ask for the eta, seldom enough to cost next to nothing however many windows it leads through."""
        begun = time.monotonic()
        if job.state.final:
            paper.eta = None
        elif begun >= paper.eta_again or job.standing != paper.eta_for:
            paper.eta = self._eta(job.id, speed)
            paper.eta_for = job.standing
            now = time.monotonic()
            paper.eta_again = now + max(_ETA_EVERY, _ETA_SHARE * (now - begun))

    def _append_attempts(self, paper: _Paper, job: JobRow, zone: tzinfo, report: int, *, durable: bool) -> None:
        size, last = paper.attempts or (job.attempts_bytes, job.attempts_id)
        files = self._spool.files
        try:
            fd = files.open_append(report, "attempts.jsonl", size)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            # Somebody shortened or removed the file: the database knows every line of it.
            size = last = 0
            fd = files.open_append(report, "attempts.jsonl", 0)
        with files.closing(fd):
            lines: list[bytes] = []
            pending = 0
            for row in self._ledger.attempts(job.id, last):
                line = attempt_line(row, zone)
                lines.append(line)
                pending += len(line)
                last = row.id
                if pending >= _FLUSH:
                    files.write(fd, b"".join(lines))
                    size, lines, pending = size + pending, [], 0
            if lines:
                files.write(fd, b"".join(lines))
                size += pending
            mark = (size, last) != (job.attempts_bytes, job.attempts_id) and (
                durable or time.monotonic() - paper.marked_at > _MARK_EVERY
            )
            if mark:
                # What lies before the mark is never looked at again: it must be there after a power cut.
                files.sync(fd)
        failpoint("attempts-appended")
        paper.attempts = (size, last)
        if mark:
            self._store.mark_attempts(job.id, size, last)
            paper.marked_at = time.monotonic()

    def _write_table(self, paper: _Paper, job: JobRow, zone: tzinfo, report: int, *, durable: bool) -> None:
        begun = time.monotonic()
        rows = recipients_csv(self._ledger.recipients(job.id), zone)
        self._spool.files.replace(report, "recipients.csv", rows, durable=durable)
        paper.table_at = time.monotonic()
        paper.table_cost = paper.table_at - begun


def _facts(job: JobRow, zone: ZoneInfo) -> _Facts:
    try:
        manifest = manifest_of(job, zone)
    except DocumentError:
        return _Facts("", "", zone)  # a rejected job's
    name = manifest.timing.timezone
    return _Facts(printable(manifest.description, 500), manifest.sender, ZoneInfo(name) if name else zone)


def _speed(paper: _Paper, final: int) -> float | None:
    """Recipients a second that got a final state over the last minute, None until two looks were taken."""
    now = time.monotonic()
    paper.samples.append((now, final))
    while now - paper.samples[0][0] > _SPEED_SPAN:
        paper.samples.popleft()
    begun, before = paper.samples[0]
    return (final - before) / (now - begun) if now - begun >= 1.0 else None
