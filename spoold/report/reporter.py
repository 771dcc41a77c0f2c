"""Writes reports into jobs' folders, and moves each job to the folder where it belongs. For the projector's threads.

A job is written whole before it changes folder, so that what lies there is exact, and is durable before it becomes
`done`. Several jobs are written together: what has to reach the disk does so once.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from datetime import tzinfo
from zoneinfo import ZoneInfo

from spoold.failpoint import failpoint
from spoold.report.binder import Binder, Written
from spoold.report.heading import Heading, heading_of
from spoold.report.paper import Paper, telling
from spoold.report.press import Press, Put
from spoold.report.statistics import DOMAINS, REPLIES, statistics_json
from spoold.report.status import Status, status_json, status_text
from spoold.report.table import ATTEMPTS, attempts_jsonl, recipients_csv
from spoold.storage.entry import NotRegularError, is_machines
from spoold.storage.ledger import Ledger
from spoold.storage.obstacle import clear
from spoold.storage.record import JobRow
from spoold.storage.spooldir import FOLDERS, Spool
from spoold.storage.store import Store

#: A job with more recipients is written by itself, where no other waits for it.
LARGE = 2000
_MARK_EVERY = 30.0
_ETA_EVERY = 2.0
_ETA_SHARE = 500.0
_SPEED_SPAN = 60.0
#: So many of the jobs that ended last are remembered.
_REMEMBERED = 10_000


class Reporter:
    """See the module. `relay_fault` gives the trouble of a job's relay, `eta` when a job would be through at its present
    speed; `zone` is for jobs that name none; `spent` is told the CPU seconds that all this takes; `formulas` says whether
    recipients.csv may have cells that a spreadsheet takes for such."""

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
        spent: Callable[[float], None],
        formulas: Callable[[], bool] = lambda: False,
    ) -> None:
        self._spool = spool
        self._store = store
        self._ledger = ledger
        self._clock = clock
        self._relay_fault = relay_fault
        self._eta = eta
        self._zone = zone
        self._spent = spent
        self._formulas = formulas
        self._binder = Binder(spool)
        self.press = Press(spool, ledger, spent)
        #: When each job was accepted (an id may be given again) whose last report is written.
        self._ended: OrderedDict[int, float] = OrderedDict()

    def write(self, papers: list[Paper], whole: bool) -> set[int]:
        """Returns the jobs of which nothing more is to be expected."""
        begun = time.thread_time()
        try:
            return self._write(papers, whole)
        finally:
            self._spent(time.thread_time() - begun)

    def _write(self, papers: list[Paper], whole: bool) -> set[int]:
        jobs = [(paper, self._store.job(paper.job_id)) for paper in papers]
        # The word that a job has ended may come after its last report, which was written by the database's.
        done = {paper.job_id for paper, job in jobs if job is None or self._has_ended(job)}
        jobs = [(paper, job) for paper, job in jobs if paper.job_id not in done]
        for paper, job in jobs:
            paper.small = job is not None and job.total <= LARGE
        small = [(paper, job) for paper, job in jobs if job is not None and paper.small]
        large = [[(paper, job)] for paper, job in jobs if job is not None and not paper.small]
        for group in (small, *large):
            done |= self._write_jobs(group, whole)
        return done

    def _write_jobs(self, jobs: list[tuple[Paper, JobRow]], whole: bool) -> set[int]:
        """Write these jobs' reports; those of jobs that have ended are durable before any of them changes folder."""
        written: list[Written] = []
        for paper, job in jobs:
            with telling(paper, job):
                found = self._write_job(paper, job, whole)
                if found is not None:
                    written.append(found)
        written = self._binder.move(self._binder.secure(written))
        for one in written:
            one.paper.error = None
        ended = [one.job for one in written if one.job.state.final]
        self._remember(ended)
        return {job.id for job in ended}

    def ended(self, job_ids: list[int]) -> set[int]:
        """Those of these jobs that have ended."""
        return {job.id for job in self._store.jobs(job_ids) if job.state.final}

    def _has_ended(self, job: JobRow) -> bool:
        return job.state.final and self._ended.get(job.id) == job.accepted_at

    def _remember(self, ended: list[JobRow]) -> None:
        for job in ended:
            self._ended[job.id] = job.accepted_at
            self._ended.move_to_end(job.id)
        while len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)

    def _write_job(self, paper: Paper, job: JobRow, whole: bool) -> Written | None:
        here = self._spool.find(job.name, FOLDERS[1:])
        target = job.state.folder
        if here is None:
            if not job.state.final:
                return None  # whoever watches the folders finds out, and ends the job
            # Made where nobody looks for a report yet; the move publishes it whole.
            here = "active"
            self._spool.files.make_directory(self._spool.fd(here), job.name)
        moving = here != target
        final = job.state.final
        # A job that becomes active was written whole when it was deferred; nothing has been sent since.
        whole = whole or final or (moving and target != "active")
        files = self._spool.files
        heading = heading_of(job, self._zone())
        staged: list[str] = []

        def write(report: int) -> None:
            staged.clear()

            def put(name: str, chunks: Iterable[bytes]) -> None:
                if final:
                    staged.append(name)
                    files.stage(report, name, chunks)
                else:
                    files.replace(report, name, chunks)

            status = self._write_status(paper, job, heading, put)
            self._append_attempts(paper, job, heading.zone, report)
            if whole:
                self._write_table(paper, job, heading.zone, put)
            if moving or final or (whole and not paper.new and self.press.wants(status)):
                self.press.print_now(status, put)
            elif not paper.new:
                self.press.offer(status)

        self._binder.write(job, here, write)
        return Written(paper, job, here, tuple(staged))

    def _write_status(self, paper: Paper, job: JobRow, heading: Heading, put: Put) -> Status:
        now, begun = self._clock(), time.thread_time()
        counts = self._ledger.counts(job.id)
        speed = _speed(paper, sum(count for state, count in counts.items() if state.final))
        fault = None if job.state.final else self._relay_fault(job.id)
        self._foresee(paper, job, speed)
        attempts = self._ledger.attempt_count(job.id)
        status = Status(
            job, heading.description, heading.sender, counts, heading.zone, now, fault, speed, paper.eta, attempts[0]
        )
        put("status.json", [status_json(status)])
        put("status.txt", [status_text(status)])
        statistics = statistics_json(
            counts,
            self._ledger.domains(job.id, DOMAINS),
            self._ledger.replies(job.id, REPLIES),
            attempts,
            speed,
            heading.zone,
            now,
        )
        put("statistics.json", [statistics])
        failpoint("report-written")
        paper.status_at = time.monotonic()
        paper.status_cost = time.thread_time() - begun
        return status

    def _foresee(self, paper: Paper, job: JobRow, speed: float | None) -> None:
        """Ask for the eta, seldom enough to cost next to nothing however many windows it leads through."""
        begun = time.monotonic()
        if job.state.final:
            paper.eta = None
        elif begun >= paper.eta_again or job.standing != paper.eta_for:
            paper.eta = self._eta(job.id, speed)
            paper.eta_for = job.standing
            now = time.monotonic()
            paper.eta_again = now + max(_ETA_EVERY, _ETA_SHARE * (now - begun))

    def _append_attempts(self, paper: Paper, job: JobRow, zone: tzinfo, report: int) -> None:
        size, last = paper.attempts or (job.attempts_bytes, job.attempts_id)
        files = self._spool.files
        try:
            fd = files.open_append(report, ATTEMPTS, size)
        except (OSError, NotRegularError) as error:
            if isinstance(error, OSError) and is_machines(error):
                raise
            # Somebody shortened or removed the file, or it is none, or has a second name by which others may have it: the
            # database knows every line of it.
            clear(files, report, ATTEMPTS)
            size = last = 0
            fd = files.open_append(report, ATTEMPTS, 0)
        with files.closing(fd):
            for lines, reached in attempts_jsonl(self._ledger, job.id, last, zone):
                files.write(fd, lines)
                size, last = size + len(lines), reached
            # Of a job that has ended nothing more is appended.
            mark = (
                (size, last) != (job.attempts_bytes, job.attempts_id)
                and not job.state.final
                and time.monotonic() - paper.marked_at > _MARK_EVERY
            )
            if mark:
                # What lies before the mark is never looked at again: it must be there after a power cut.
                files.sync(fd)
        failpoint("attempts-appended")
        paper.attempts = (size, last)
        if mark:
            self._store.mark_attempts(job.id, size, last)
            paper.marked_at = time.monotonic()

    def _write_table(self, paper: Paper, job: JobRow, zone: tzinfo, put: Put) -> None:
        begun = time.thread_time()
        put("recipients.csv", recipients_csv(self._ledger, job.id, zone, formulas=self._formulas()))
        paper.table_at = time.monotonic()
        paper.table_cost = time.thread_time() - begun


def _speed(paper: Paper, final: int) -> float | None:
    """Recipients a second that got a final state over the last minute, None until two looks were taken."""
    now = time.monotonic()
    paper.samples.append((now, final))
    while now - paper.samples[0][0] > _SPEED_SPAN:
        paper.samples.popleft()
    begun, before = paper.samples[0]
    return (final - before) / (now - begun) if now - begun >= 1.0 else None
