"""The running agent: starts the parts in order, keeps them going, and stops them so that nothing is lost.

Start: lock, database, recovery, folders; then the parts; then READY. Stop (SIGTERM, SIGINT): no new transaction, open ones end, every
report is written. A part that fails ends the agent: better a restart with recovery than an agent that only seems to work.
"""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from zoneinfo import ZoneInfo

from spoold import __version__
from spoold.agent.configuration import Configuration
from spoold.agent.notice import Notices
from spoold.agent.order import Orders
from spoold.agent.purge import Purge
from spoold.agent.recovery import recover
from spoold.agent.survey import Survey
from spoold.agent.systemd import ServiceManager
from spoold.core.terms import terms_of
from spoold.delivery.body import BodyReader
from spoold.delivery.dispatcher import Dispatcher
from spoold.delivery.job import LiveJob
from spoold.delivery.limiter import Limiter
from spoold.event import log
from spoold.intake.scan import Intake
from spoold.intake.watcher import Watcher
from spoold.report.bulletin import Bulletin
from spoold.report.projector import Projector
from spoold.report.reporter import Reporter
from spoold.storage.admission import Admission
from spoold.storage.clock import catch_up
from spoold.storage.database import Database, DatabaseError
from spoold.storage.ledger import Ledger
from spoold.storage.manifest import compact_of, manifest_of
from spoold.storage.outbox import Outbox
from spoold.storage.record import JobRow
from spoold.storage.schema import SCHEMA
from spoold.storage.spooldir import FOLDERS, Spool
from spoold.storage.store import Store
from spoold.tally import Tally

#: Below this many free bytes no transaction is opened and no upload taken: outcomes must always find room.
RESERVE = 32 * 1024 * 1024
_CONTROL_EVERY = 0.4
_SCAN_EVERY = 1.0
_SCAN_SHARE = 5.0
_SCAN_LATEST = 5.0
_STATUS_EVERY = 2.0
#: With many jobs it is written less often: this many times what the last writing took, but at least every five seconds.
_STATUS_SHARE = 200.0
_STATUS_LATEST = 4.0
_DISK_EVERY = 1.0
_PURGE_EVERY = 3600.0
_REQUESTS_EVERY = 1.0
_RECORD_WITHIN = 10.0


class AgentError(Exception):
    """The agent cannot run, or had to end; the text says why."""


class Supervisor:
    """See the module. `reload` reads the configuration again, or raises ValueError with its problems, one a line."""

    def __init__(
        self,
        spool: Spool,
        configuration: Configuration,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        reload: Callable[[], Configuration],
        drain: bool = False,
        stop_on_signals: bool = True,
        reserve: int = RESERVE,
    ) -> None:
        self._spool = spool
        self._configuration = configuration
        self._clock = clock
        self._monotonic = monotonic
        self._reload = reload
        self._drain = drain
        self._stop_on_signals = stop_on_signals
        self._reserve = reserve
        self._service_manager = ServiceManager()
        self._tally = Tally()
        self._failure: str | None = None
        self._troubles: dict[str, str] = {}
        self._state = "running"
        self._stop = asyncio.Event()
        self._scan_now = asyncio.Event()
        self._scan_threads = ThreadPoolExecutor(1, thread_name_prefix="scan")
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="worker")
        # A message that is to be sent waits for no recipients that are to be read ahead.
        self._body_threads = ThreadPoolExecutor(2, thread_name_prefix="body")
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        """Run until a signal, or until all is sent where draining. Raises AgentError, SpoolError or DatabaseError."""
        self._spool.lock()
        self._database = Database(
            self._spool.database,
            on_failure=self._database_failed,
            on_full=self._database_full,
            on_commit=self._tally.committed,
        )
        try:
            self._database.start(SCHEMA)
            await self._serve()
        finally:
            await self._loop.run_in_executor(None, self._database.close)
            self._scan_threads.shutdown()
            self._threads.shutdown()
            self._body_threads.shutdown()
        if self._failure is not None:
            raise AgentError(self._failure)

    def stop(self) -> None:
        """End in order, as on SIGTERM."""
        self._stop.set()

    async def _serve(self) -> None:
        self._store = Store(self._database)
        self._ledger = Ledger(self._database)
        admission = Admission(self._database, lambda name: self._spool.find(name, FOLDERS[1:]) is None)
        reporter = Reporter(
            self._spool,
            self._store,
            self._ledger,
            clock=self._clock,
            relay_fault=self._relay_fault,
            eta=self._eta,
            zone=self._zone,
            spent=self._tally.reported,
        )
        self._projector = Projector(reporter)
        if back := await self._loop.run_in_executor(self._threads, catch_up, self._database, self._clock()):
            log("clock.jumped", seconds=-round(back))
        tats = await self._loop.run_in_executor(self._threads, self._store.tats, self._clock())
        self._limiter = Limiter(self._configuration.limits, tats)
        self._dispatcher = Dispatcher(
            self._store,
            self._configuration.relays,
            self._limiter,
            BodyReader(self._spool, self._body_threads),
            self._threads,
            self._tally,
            clock=self._clock,
            monotonic=self._monotonic,
            changed=self._projector.changed,
            moved=lambda job_id: self._projector.changed(job_id, moved=True),
        )
        self._watcher = Watcher(self._spool, self._loop, self._stirred)
        self._intake = Intake(
            self._spool,
            admission,
            self._configuration.settings,
            self._tally,
            clock=self._clock,
            monotonic=self._monotonic,
            report=self._projector.write,
            accepted=lambda job_ids: self._soon(self._accepted, job_ids),
            reserve=self._reserve,
        )
        self._survey = Survey(self._dispatcher, self._intake, clock=self._clock, monotonic=self._monotonic)
        self._bulletin = Bulletin(
            self._spool,
            self._store,
            self._survey,
            self._tally,
            clock=self._clock,
            monotonic=self._monotonic,
        )
        self._orders = Orders(
            self._spool,
            self._store,
            self._dispatcher,
            self._projector,
            clock=self._clock,
            defaults=lambda: self._configuration.defaults,
        )
        self._notices = Notices(
            self._spool,
            self._store,
            self._ledger,
            Outbox(self._database),
            address=lambda: self._configuration.notify,
            limit=lambda: self._configuration.intake.max_message,
            zone=self._zone,
            clock=self._clock,
            monotonic=self._monotonic,
        )
        await self._loop.run_in_executor(
            self._threads, recover, self._spool, self._store, self._intake, self._projector, self._clock(), self._zone()
        )
        await self._loop.run_in_executor(self._threads, self._notices.recover)
        await self._load()
        if self._stop_on_signals:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.add_signal_handler(number, self._terminate, number)
            self._loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        try:
            await self._work()
        finally:
            self._watcher.stop()
            self._intake.stop()
            self._orders.close()

    # --- start ------------------------------------------------------------------------------------------------------

    async def _load(self) -> None:
        rows, due = await self._loop.run_in_executor(self._threads, self._read_jobs)
        zone = self._configuration.defaults.zone
        unknown = {}
        for row in rows:
            job = self._add(row)
            # Known before the first look, so that a job that waits for a retry is not taken for one that can send.
            job.next_due = due[row.id]
            compact = compact_of(job.manifest, row.manifest, row.timing, zone)
            if compact != row.compact:
                unknown[row.id] = compact
        if unknown:
            self._store.remember(unknown)
        # What people did while no agent ran holds from the first moment, not from the first look afterwards.
        await self._orders.obey()
        self._projector.refresh([row.id for row in rows])

    def _read_jobs(self) -> tuple[list[JobRow], dict[int, float | None]]:
        rows = self._store.live_jobs()
        return rows, self._store.agenda.first_due([row.id for row in rows])

    def _add(self, row: JobRow) -> LiveJob:
        defaults = self._configuration.defaults
        manifest = manifest_of(row, defaults.zone)
        job = LiveJob.of(row, manifest, terms_of(manifest.timing, defaults, row.accepted_at))
        self._dispatcher.add(job)
        return job

    def _soon(self, call: Callable[..., None], *values: object) -> None:
        """From a thread into the event loop; nothing, once that has ended."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *values)

    def _accepted(self, job_ids: list[int]) -> None:
        async def add() -> None:
            for row in await self._loop.run_in_executor(self._threads, self._store.jobs, job_ids):
                if row.id not in self._dispatcher.jobs:
                    self._add(row)
                    self._projector.accepted(row.id, row.total)
            # What was asked for while they were taken.
            await self._orders.obey_in(job_ids)

        self._group.create_task(add())

    # --- the parts ----------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                try:
                    self._watcher.start()
                except OSError as error:
                    log("watch.failed", error=error.strerror or str(error))
                parts = [
                    group.create_task(part, name=name)
                    for name, part in (
                        ("scan", self._scan()),
                        ("control", self._look_at_controls()),
                        ("status", self._tell()),
                        ("disk", self._look_at_disk()),
                        ("watchdog", self._ping()),
                        ("purge", self._purge()),
                        ("notice", self._notices.run(self._threads)),
                    )
                ]
                dispatcher = group.create_task(self._dispatcher.run(), name="dispatcher")
                projector = group.create_task(self._projector.run(), name="projector")
                if self._drain:
                    parts.append(group.create_task(self._watch_drain(), name="drain"))
                log("agent.started", version=__version__, spool=str(self._spool.path), jobs=len(self._dispatcher.jobs))
                self._service_manager.ready(self._survey.summary())
                await self._stop.wait()
                self._state = "stopping"
                self._dispatcher.stop()
                while not dispatcher.done():
                    self._service_manager.extend(30)
                    await asyncio.wait([dispatcher], timeout=10)
                await self._record_outcomes()
                await self._loop.run_in_executor(None, self._intake.stop)
                for part in parts:
                    part.cancel()
                if self._failure is None:
                    await self._projector.stop()
                    await projector
                else:
                    projector.cancel()
        except* (asyncio.CancelledError, DatabaseError) as group_error:
            if self._failure is None:
                self._failure = str(group_error.exceptions[0])
        if self._failure is None:
            self._state = "stopped"
            await self._publish()
            log("agent.stopped")

    async def _record_outcomes(self) -> None:
        """The last outcomes may be on their way to the database; what is written behind them is written after them."""
        if self._failure is None:
            with contextlib.suppress(TimeoutError):  # a full disk: they become *uncertain* at the next start
                async with asyncio.timeout(_RECORD_WITHIN):
                    await self._store.alive()
                    await self._dispatcher.conclude()

    async def _scan(self) -> None:
        while True:
            self._scan_now.clear()
            begun = self._monotonic()
            wait = None
            with self._tolerant("new"):
                wait = await self._loop.run_in_executor(self._scan_threads, self._intake.scan)
            rest = _SCAN_SHARE * (self._monotonic() - begun)
            # While thousands of uploads come in, each look at all of them must find more than one.
            await asyncio.sleep(min(rest, _SCAN_EVERY / 2))
            # While thousands stand there and nothing stirs, looking at them must not keep a core busy.
            every = min(max(_SCAN_EVERY, rest), _SCAN_LATEST)
            pause = every if wait is None else min(max(wait, 0.02), every)
            await _until(self._scan_now, pause)

    async def _look_at_controls(self) -> None:
        while True:
            await asyncio.sleep(_CONTROL_EVERY)
            with self._tolerant("control files"):
                await self._orders.obey()

    def _stirred(self, upload: str, renamed_in: bool) -> None:
        self._intake.hint(upload, renamed_in=renamed_in)
        self._scan_now.set()

    @contextlib.contextmanager
    def _tolerant(self, where: str) -> Iterator[None]:
        """An error of the file system in what is done again anyway is told once, and is no reason to end."""
        try:
            yield
        except OSError as error:
            text = error.strerror or str(error)
            if self._troubles.get(where) != text:
                log("spool.failed", where=where, error=text)
            self._troubles[where] = text
        else:
            self._troubles.pop(where, None)

    async def _look_at_disk(self) -> None:
        while True:
            with self._tolerant("folders"):
                self._spool.check_folders()
            with self._tolerant("free space"):
                free = self._spool.files.free_bytes(self._spool.root)
                full = free < self._reserve
                if full != self._dispatcher.claims.disk_full:
                    self._dispatcher.fill_disk(full)
                    if full:
                        log("disk.full", free=free)
                    else:
                        log("disk.free")
            await asyncio.sleep(_DISK_EVERY)

    async def _ping(self) -> None:
        interval = self._service_manager.watchdog_interval
        while interval is not None:
            await self._store.alive()
            self._service_manager.watchdog()
            await asyncio.sleep(interval)

    async def _purge(self) -> None:
        purge = Purge(self._spool, self._store)
        due = 0.0
        while True:
            keep = self._configuration.keep_done
            with self._tolerant("done"):
                if keep is not None and self._monotonic() >= due:
                    await self._loop.run_in_executor(self._threads, purge.remove, self._clock() - keep)
                    due = self._monotonic() + _PURGE_EVERY
                await self._loop.run_in_executor(self._threads, purge.obey)
            await asyncio.sleep(_REQUESTS_EVERY)

    async def _watch_drain(self) -> None:
        """End when nothing is left that could be sent now."""
        calm = 0
        while calm < 3:
            await asyncio.sleep(0.2)
            busy = self._intake.settling or not self._dispatcher.idle or not self._projector.settled
            busy = busy or not await self._loop.run_in_executor(self._threads, self._notices.settled)
            calm = 0 if busy else calm + 1
        self._stop.set()

    # --- what it tells --------------------------------------------------------------------------------------------------

    async def _tell(self) -> None:
        while True:
            self._service_manager.status(self._survey.summary())
            begun = self._monotonic()
            await self._publish()
            await asyncio.sleep(max(_STATUS_EVERY, min(_STATUS_LATEST, _STATUS_SHARE * (self._monotonic() - begun))))

    async def _publish(self) -> None:
        configuration = self._configuration
        await self._loop.run_in_executor(self._threads, self._bulletin.write, self._state, configuration.defaults.zone)

    def _relay_fault(self, job_id: int) -> str | None:
        job = self._dispatcher.jobs.get(job_id)
        return None if job is None else self._dispatcher.routes.fault(job)

    def _eta(self, job_id: int, speed: float | None) -> float | None:
        """From the projector's threads."""
        job = self._dispatcher.jobs.get(job_id)
        if job is None:
            return None
        return self._dispatcher.outlook.forecast(job, self._ledger.unsent_by_domain(job_id), speed).end

    def _zone(self) -> ZoneInfo:
        return self._configuration.defaults.zone

    # --- signals and failures -------------------------------------------------------------------------------------------

    def _terminate(self, number: signal.Signals) -> None:
        log("agent.stopping", signal=number.name, open=self._dispatcher.open)
        self._service_manager.stopping(f"waiting for {self._dispatcher.open} open recipients")
        self._stop.set()

    def _hang_up(self) -> None:
        self._service_manager.reloading()
        try:
            configuration = self._reload()
        except ValueError as error:
            for line in str(error).splitlines():
                log("agent.reload_failed", problem=line)
        else:
            self._configuration = configuration
            self._limiter.limits = configuration.limits
            changed = self._dispatcher.use(configuration.relays)
            self._intake.use(configuration.settings)
            for job in self._dispatcher.jobs.values():
                terms = terms_of(job.manifest.timing, configuration.defaults, job.accepted_at)
                self._dispatcher.retime(job, terms)
            log("agent.reloaded", changed=changed)
        self._service_manager.ready(self._survey.summary())

    def _database_failed(self, error: Exception) -> None:
        """Nothing can be recorded any more: end. From the database's thread."""
        self._failure = f"the database failed and nothing more is sent: {error}; the next start recovers"
        self._soon(self._fail)

    def _fail(self) -> None:
        log("agent.failed", error=self._failure)
        self._stop.set()

    def _database_full(self, full: bool) -> None:
        def tell() -> None:
            self._dispatcher.fill_disk(full)
            log("disk.full", free=0) if full else log("disk.free")

        self._soon(tell)


async def _until(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
