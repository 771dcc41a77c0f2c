"""What the agent says of itself: SPOOL/status.json, metrics.prom and index.html."""

import os
from collections.abc import Callable
from datetime import tzinfo
from typing import Protocol

from markupsafe import Markup

from spoold import __version__
from spoold.core.problem import printable
from spoold.event import log
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


class Survey(Protocol):
    """What the running agent knows of itself. Moments are POSIX seconds; for any thread."""

    @property
    def sent(self) -> int:
        """Recipients since the start."""

    @property
    def disk_full(self) -> bool: ...

    def now(self) -> Now: ...
    def relays(self) -> list[RelayState]: ...
    def uploads(self) -> list[UploadState]: ...
    def ways(self) -> dict[int, tuple[str, float]]:
        """Of each live job by id: its relay, and from when on it could be sent."""


class Bulletin:
    """Writes what the store and the running agent know. `clock` gives POSIX seconds, `monotonic` seconds that no one sets."""

    def __init__(
        self,
        spool: Spool,
        store: Store,
        survey: Survey,
        tally: Tally,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._spool = spool
        self._store = store
        self._survey = survey
        self._tally = tally
        self._clock = clock
        self._monotonic = monotonic
        self._started_at = clock()
        self._jobs: tuple[int, tzinfo, JobsState] | None = None
        self._queue = Queue({}, {})
        self._lines: tuple[tuple[int, tzinfo], tuple[Markup, Markup, bool]] | None = None
        self._page_at = float("-inf")

    def write(self, word: str, zone: tzinfo) -> None:
        """Write the files; `word` is running, stopping or stopped. For a thread."""
        now = self._clock()
        warnings = []
        if self._survey.disk_full:
            warnings.append("the disk is nearly full: nothing is sent and nothing is taken until there is room")
        state = AgentState(
            version=__version__,
            pid=os.getpid(),
            state=word,
            started_at=self._started_at,
            now=now,
            sent=self._survey.sent,
            relays=self._survey.relays(),
            uploads=self._survey.uploads(),
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
            ways = self._survey.ways()
            self._queue = queue_of(live, ways)
            # One that has just been accepted may not have its relay yet; then it is looked at once more.
            self._jobs = (commits, zone, state) if all(job.id in ways for job in live) else None
            return state
        return self._jobs[2]

    def _metrics(self, state: AgentState) -> bytes:
        spool = printable(os.path.abspath(self._spool.path), 500)
        return metrics(
            state, spool, self._queue, self._survey.now(), self._tally.figures(relay.name for relay in state.relays)
        )

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
