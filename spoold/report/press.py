"""Prints the jobs' pages, report/index.html, in a thread and on a clock of its own.

A page costs more than the other reports and is looked at less often. So it is written at most every `_EVERY` seconds, more
seldom the more it costs, and all pages together take a fixed share of one core, however many jobs there are. Only where a
job changes its folder its page is written there and then, by whoever moves it.
"""

import functools
import math
import threading
import time
from collections.abc import Callable, Iterable
from typing import Self

from spoold.core.folder import REPORT
from spoold.event import log
from spoold.report.page import PAGE, JobView, job_page, prepare
from spoold.report.status import Status
from spoold.storage.ledger import Ledger
from spoold.storage.spooldir import FOLDERS, Spool

_EVERY = 5.0
#: After a page the thread rests for so many times what the page took, and the job's next one for so many times.
_REST = 20.0
_JOB_REST = 600.0
#: Recipients of a job whose first page is made beside its other reports.
_SMALL = 200
#: A change of the expected end by less than so many seconds is no reason for a new page.
_ETA_SHOWN = 60.0
_Gist = tuple[object, ...]
#: Puts a file of this name and content into a report.
Put = Callable[[str, Iterable[bytes]], object]


class Press:
    """See the module. A job is offered again and again; of what was offered only the newest counts, and only where it says
    something new."""

    def __init__(self, spool: Spool, ledger: Ledger, spent: Callable[[float], None]) -> None:
        self._spool = spool
        self._ledger = ledger
        self._spent = spent
        self._offers: dict[int, Status] = {}
        #: When a job's next page may be written, and what the last one said.
        self._printed: dict[int, tuple[float, _Gist]] = {}
        self._stirred = threading.Condition()
        #: Held from the first read to the last write: a page never takes the place of a newer one.
        self._printing = threading.Lock()
        self._ceased = False
        self._thread = threading.Thread(target=self._run, name="press", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cease()

    def start(self) -> None:
        self._thread.start()

    def cease(self) -> None:
        """Write no more; a page that is being written is left to itself."""
        with self._stirred:
            self._ceased = True
            self._stirred.notify()

    def finish(self, within: float = math.inf) -> None:
        """Write what was offered, for some seconds, then no more: a job that has ended offers nothing. For a thread."""
        self.cease()
        self._thread.join()
        until = time.monotonic() + within
        for job_id in list(self._offers):
            if time.monotonic() > until:
                return
            self._print_offered(job_id)

    def offer(self, status: Status) -> None:
        """This is where a job stands: write its page when its time has come."""
        job_id = status.job.id
        with self._stirred:
            printed = self._printed.get(job_id)
            if job_id not in self._offers and printed is not None and printed[1] == _gist(status):
                return  # the page says so already
            self._offers[job_id] = status
            self._stirred.notify()

    def wants(self, status: Status) -> bool:
        """Whether a job has no page of this process yet and is so small that it need not wait for one."""
        return status.job.total <= _SMALL and status.job.id not in self._printed

    def print_now(self, status: Status, put: Put) -> None:
        """Write a job's page by `put` before returning. Raises OSError."""
        job = status.job
        with self._printing:
            self._withdraw(job.id)
            self._print(status, put)
            if job.state.final:
                self._printed.pop(job.id, None)
            else:
                self._note(status)

    def _withdraw(self, job_id: int) -> Status | None:
        with self._stirred:
            return self._offers.pop(job_id, None)

    def _run(self) -> None:
        while True:
            with self._stirred:
                if self._ceased:
                    return
                job_id, pause = self._next()
                if job_id is None:
                    self._stirred.wait(pause)
                    continue
            prepare()
            begun, used = time.monotonic(), time.thread_time()
            self._print_offered(job_id)
            cost = time.thread_time() - used
            self._spent(cost)
            self._put_off(job_id, _JOB_REST * cost)
            rest = begun + (1 + _REST) * (time.monotonic() - begun)
            with self._stirred:
                while not self._ceased and (left := rest - time.monotonic()) > 0:
                    self._stirred.wait(left)

    def _next(self) -> tuple[int | None, float | None]:
        """The job whose page has waited for longest, or how long to wait, None for as long as nothing is offered."""
        if not self._offers:
            return None, None
        job_id = min(self._offers, key=self._due_at)
        wait = self._due_at(job_id) - time.monotonic()
        return (job_id, None) if wait <= 0 else (None, wait)

    def _print_offered(self, job_id: int) -> None:
        name = ""
        try:
            with self._printing:
                status = self._withdraw(job_id)
                if status is None:
                    return
                self._note(status)
                name = status.job.name
                here = self._spool.find(name, FOLDERS[1:])
                if here is None:
                    self._printed.pop(job_id, None)
                    return
                with self._spool.job(here, name) as root, self._spool.files.directory(root, (REPORT,)) as report:
                    self._print(status, functools.partial(self._spool.files.replace, report))
        except FileNotFoundError:
            return  # it moves just now, and whoever moves it writes it
        except OSError as error:
            log("report.failed", job=name, error=f"{error.strerror or error} ({PAGE})")
        except Exception as error:  # noqa: BLE001 - one page must not end all others
            if not self._ceased:
                log("agent.task_failed", where="page", error=f"{type(error).__name__}: {error}")

    def _print(self, status: Status, put: Put) -> None:
        put(PAGE, job_page(JobView.of(status, self._ledger)))

    def _due_at(self, job_id: int) -> float:
        found = self._printed.get(job_id)
        return float("-inf") if found is None else found[0]

    def _note(self, status: Status) -> None:
        self._printed[status.job.id] = (time.monotonic() + _EVERY, _gist(status))

    def _put_off(self, job_id: int, seconds: float) -> None:
        """The job's next page may come so long after now at the earliest."""
        found = self._printed.get(job_id)
        if found is not None:
            self._printed[job_id] = (max(found[0], time.monotonic() + seconds), found[1])


def _gist(status: Status) -> _Gist:
    job = status.job
    eta = None if status.eta is None else status.eta // _ETA_SHOWN
    counts = tuple(status.counts.values())
    # A retry that is put off again changes no count.
    return (job.standing, job.since, job.warnings, status.relay_error, status.zone, eta, counts, status.attempts)
