"""What a running agent is made of: the parts, built in the order in which they need each other, and the wires between them.

Intake, delivery and report do not know each other: here each is told what it must know of the others.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from zoneinfo import ZoneInfo

from spoold.agent.configuration import Configuration
from spoold.agent.notice import Notices
from spoold.agent.order import Orders
from spoold.agent.survey import Survey
from spoold.agent.sweep import Sweep
from spoold.core.terms import terms_of
from spoold.delivery.body import BodyReader
from spoold.delivery.dispatcher import Dispatcher
from spoold.delivery.job import LiveJob
from spoold.delivery.limiter import Limiter
from spoold.intake.scan import Intake
from spoold.intake.watcher import Watcher
from spoold.report.bulletin import Bulletin
from spoold.report.projector import Projector
from spoold.report.reporter import Reporter
from spoold.storage.admission import Admission
from spoold.storage.database import Database
from spoold.storage.ledger import Ledger
from spoold.storage.manifest import manifest_of
from spoold.storage.outbox import Outbox
from spoold.storage.record import JobRow
from spoold.storage.spooldir import FOLDERS, Spool
from spoold.storage.store import Store
from spoold.tally import Tally


class Parts:
    """See the module. `tats` is the state of the rates; `clock` gives POSIX seconds, `monotonic` seconds that no one sets; below
    `reserve` free bytes nothing is taken. `accepted` is told the ids of jobs that are to be sent, from worker threads."""

    def __init__(
        self,
        spool: Spool,
        database: Database,
        configuration: Configuration,
        tally: Tally,
        threads: ThreadPoolExecutor,
        tats: dict[str, float],
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        reserve: int,
        accepted: Callable[[list[int]], None],
    ) -> None:
        self.spool = spool
        self.configuration = configuration
        self.threads = threads
        # A message that is to be sent waits for no recipients that are to be read ahead.
        self._body_threads = ThreadPoolExecutor(2, thread_name_prefix="body")
        self.scan_now = asyncio.Event()
        self.store = Store(database)
        self._ledger = Ledger(database)
        self.projector = Projector(
            Reporter(
                spool,
                self.store,
                self._ledger,
                clock=clock,
                relay_fault=self._relay_fault,
                eta=self._eta,
                zone=self.zone,
                spent=tally.reported,
                formulas=lambda: self.configuration.csv_formulas,
            )
        )
        self._limiter = Limiter(configuration.limits, tats)
        self.dispatcher = Dispatcher(
            self.store,
            configuration.relays,
            self._limiter,
            BodyReader(spool, self._body_threads),
            self.threads,
            tally,
            clock=clock,
            monotonic=monotonic,
            changed=self.projector.changed,
            moved=lambda job_id: self.projector.changed(job_id, moved=True),
        )
        self.watcher = Watcher(spool, asyncio.get_running_loop(), self._stirred)
        self.intake = Intake(
            spool,
            Admission(database, lambda name: spool.find(name, FOLDERS[1:]) is None),
            configuration.settings,
            tally,
            clock=clock,
            monotonic=monotonic,
            report=self.projector.write,
            accepted=accepted,
            reserve=reserve,
        )
        self.survey = Survey(self.dispatcher, self.intake, clock=clock, monotonic=monotonic)
        self.bulletin = Bulletin(spool, self.store, self.survey, tally, clock=clock, monotonic=monotonic)
        self.orders = Orders(
            spool,
            self.store,
            self.dispatcher,
            self.projector,
            clock=clock,
            defaults=lambda: self.configuration.defaults,
        )
        self.sweep = Sweep(spool)
        self.notices = Notices(
            spool,
            self.store,
            self._ledger,
            Outbox(database),
            address=lambda: self.configuration.notify,
            limit=lambda: self.configuration.intake.max_message,
            formulas=lambda: self.configuration.csv_formulas,
            zone=self.zone,
            clock=clock,
            monotonic=monotonic,
        )

    def zone(self) -> ZoneInfo:
        """The agent's own."""
        return self.configuration.defaults.zone

    def use(self, configuration: Configuration) -> list[str]:
        """Go on by another configuration; returns the relays that are not what they were."""
        self.configuration = configuration
        self._limiter.limits = configuration.limits
        if changed := self.dispatcher.use(configuration.relays):
            # A job that waits for its window stays as it is, and its report tells of its relay all the same.
            self.dispatcher.relay_changed()
        self.intake.use(configuration.settings)
        for job in self.dispatcher.jobs.values():
            self.dispatcher.retime(job, terms_of(job.manifest.timing, configuration.defaults, job.accepted_at))
        return changed

    def live(self, row: JobRow) -> LiveJob:
        """A job that is to be sent, for the dispatcher."""
        defaults = self.configuration.defaults
        manifest = manifest_of(row, defaults.zone)
        return LiveJob.of(row, manifest, terms_of(manifest.timing, defaults, row.accepted_at))

    def shutdown(self) -> None:
        """End what was started here, once nobody gives it anything to do."""
        self._body_threads.shutdown()

    # --- wires ------------------------------------------------------------------------------------------------------

    def _stirred(self, upload: str, renamed_in: bool | None) -> None:
        self.intake.hint(upload, renamed_in=renamed_in)
        self.scan_now.set()

    def _relay_fault(self, job_id: int) -> str | None:
        job = self.dispatcher.jobs.get(job_id)
        return None if job is None else self.dispatcher.routes.fault(job)

    def _eta(self, job_id: int, speed: float | None) -> float | None:
        """From the projector's threads."""
        job = self.dispatcher.jobs.get(job_id)
        if job is None:
            return None
        return self.dispatcher.outlook.forecast(job, self._ledger.unsent_by_domain(job_id), speed).end
