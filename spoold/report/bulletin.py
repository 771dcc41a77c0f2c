"""What the agent says of itself: SPOOL/status.json, metrics.prom and index.html, and one line for the service manager."""

import os
from collections.abc import Callable
from datetime import tzinfo

from markupsafe import Markup

from spoold import __version__
from spoold.core.problem import printable
from spoold.delivery.dispatcher import Dispatcher
from spoold.event import log
from spoold.intake.scan import Intake
from spoold.report.agent import AgentState, JobsState, RelayState, UploadState, agent_json, jobs_state
from spoold.report.metric import Now, Queue, metrics, queue_of
from spoold.report.page import PAGE, prepare, spool_page
from spoold.report.page_row import JobLine, job_rows
from spoold.storage.record import JobRow
from spoold.storage.spooldir import FOLDERS, Spool
from spoold.storage.store import Store
from spoold.tally import Tally

#: The page is written at most this often, and rests this many times what it took.
_PAGE_EVERY = 5.0
_PAGE_REST = 200.0
_PAGE_LATEST = 60.0
_DONE = 100


class Bulletin:
    """Gathers what dispatcher, intake and store know. `clock` gives POSIX seconds, `monotonic` seconds that no one sets."""

    def __init__(
        self,
        spool: Spool,
        store: Store,
        dispatcher: Dispatcher,
        intake: Intake,
        tally: Tally,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._spool = spool
        self._store = store
        self._dispatcher = dispatcher
        self._intake = intake
        self._tally = tally
        self._clock = clock
        self._monotonic = monotonic
        self._started_at = clock()
        self._jobs: tuple[int, tzinfo, JobsState] | None = None
        self._queue = Queue({}, {})
        self._lines: tuple[tuple[int, tzinfo], tuple[Markup, Markup, bool]] | None = None
        self._page_at = float("-inf")

    def summary(self) -> str:
        """One line."""
        jobs = list(self._dispatcher.jobs.values())
        down = [name for name, courier in self._dispatcher.couriers.items() if not courier.health.up]
        text = (
            f"{len(jobs)} jobs, {sum(job.unfinished for job in jobs)} recipients to send, {self._dispatcher.sent} sent"
        )
        return text + (f"; relay down: {', '.join(down)}" if down else "")

    def write(self, word: str, zone: tzinfo) -> None:
        """Write the files; `word` is running, stopping or stopped. For a thread."""
        now = self._clock()
        since = now - self._monotonic()
        warnings = []
        if self._dispatcher.disk_full:
            warnings.append("the disk is nearly full: nothing is sent and nothing is taken until there is room")
        state = AgentState(
            version=__version__,
            pid=os.getpid(),
            state=word,
            started_at=self._started_at,
            now=now,
            sent=self._dispatcher.sent,
            relays=[
                RelayState(
                    name,
                    courier.relay.address,
                    courier.health.up,
                    courier.connected,
                    None if courier.health.fault is None else str(courier.health.fault),
                    None if courier.health.up else since + courier.health.until,
                )
                for name, courier in list(self._dispatcher.couriers.items())
            ],
            uploads=[
                UploadState(printable(upload.name), upload.waits_for or "a first look", since + upload.first_seen)
                for upload in self._intake.waiting
            ],
            jobs=self._state_of_jobs(zone),
            warnings=warnings,
        )
        files = self._spool.files
        try:
            files.replace(self._spool.root, "status.json", [agent_json(state, zone)])
            files.replace(self._spool.root, "metrics.prom", [self._metrics(state)])
            if word != "running" or self._monotonic() >= self._page_at:
                self._write_page(state, zone)
        except OSError as error:
            log("report.failed", job="status.json", error=error.strerror or str(error))

    def _state_of_jobs(self, zone: tzinfo) -> JobsState:
        """Read anew only when something was committed: an idle agent with many jobs costs next to nothing."""
        commits = self._store.commits
        if self._jobs is None or self._jobs[:2] != (commits, zone):
            live = self._store.live_jobs()
            state = jobs_state(live, self._store.done_jobs(), zone)
            ways = self._ways()
            self._queue = queue_of(live, ways)
            # One that has just been accepted may not have its relay yet; then it is looked at once more.
            self._jobs = (commits, zone, state) if all(job.id in ways for job in live) else None
            return state
        return self._jobs[2]

    def _ways(self) -> dict[int, tuple[str, float]]:
        """Of each live job by id: its relay, and from when on it could be sent."""
        home = self._dispatcher.routes.home
        return {job.id: (home(job), job.sendable_from) for job in list(self._dispatcher.jobs.values())}

    def _metrics(self, state: AgentState) -> bytes:
        spool = printable(os.path.abspath(self._spool.path), 500)
        now = Now(self._dispatcher.open, self._dispatcher.throttled)
        return metrics(state, spool, self._queue, now, self._tally.figures(relay.name for relay in state.relays))

    def _write_page(self, state: AgentState, zone: tzinfo) -> None:
        prepare()
        begun = self._monotonic()
        live, done, older = self._lines_of_jobs(zone)
        self._spool.files.replace(self._spool.root, PAGE, spool_page(state, live, done, older, zone))
        now = self._monotonic()
        self._page_at = now + max(_PAGE_EVERY, min(_PAGE_LATEST, _PAGE_REST * (now - begun)))

    def _lines_of_jobs(self, zone: tzinfo) -> tuple[Markup, Markup, bool]:
        """The live jobs and those that ended last, as the page shows them; kept while nothing was committed and every folder
        stands where it belongs."""
        commits = self._store.commits
        if self._lines is None or self._lines[0] != (commits, zone):
            live, done = self._store.live_jobs(), self._store.done_jobs(_DONE)
            lines = [JobLine(job, self._place(job)) for job in (*live, *done)]
            settled = all(line.place == line.job.state.folder for line in lines)
            shown = (job_rows(lines[: len(live)], zone), job_rows(lines[len(live) :], zone), len(done) == _DONE)
            self._lines = ((commits, zone), shown) if settled else None
            return shown
        return self._lines[1]

    def _place(self, job: JobRow) -> str | None:
        folder = job.state.folder
        return self._spool.find(job.name, (folder, *FOLDERS[1:]))
