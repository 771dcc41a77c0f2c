"""The running agent: starts the parts in order, keeps them going, and stops them so that nothing is lost.

Start: lock, database, recovery, folders; then the parts; then READY. Stop (SIGTERM, SIGINT): no new transaction, open ones end, every
report is written. A part that fails ends the agent: better a restart with recovery than an agent that only seems to work.
"""

import asyncio
import contextlib
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path as FilePath
from typing import TypeVar

from spoold import __version__
from spoold.agent.configuration import Configuration
from spoold.agent.parts import Parts
from spoold.agent.recovery import recover
from spoold.agent.routine import Routines
from spoold.agent.signalling import listen
from spoold.agent.start import Start
from spoold.agent.systemd import ServiceManager
from spoold.event import log
from spoold.storage.clock import catch_up
from spoold.storage.database import Database, DatabaseError
from spoold.storage.manifest import compact_of
from spoold.storage.owner import require_same
from spoold.storage.record import JobRow
from spoold.storage.schema import VERSION
from spoold.storage.spooldir import Spool
from spoold.storage.store import Store
from spoold.storage.upgrade import open_database
from spoold.tally import Tally

#: Below this many free bytes no transaction is opened and no upload taken: outcomes must always find room.
RESERVE = 32 * 1024 * 1024
_RECORD_WITHIN = 10.0
#: So many jobs are begun with before anybody else is heard.
_AT_ONCE = 50

_T = TypeVar("_T")


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
        self._database_lost = False
        self._state = "running"
        self._stop = asyncio.Event()
        self._start = Start(self._service_manager, self._stop.is_set)
        self._ready = self._reload_asked = False
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="worker")
        self._parts: Parts | None = None

    async def run(self) -> None:
        """Run until a signal, or until all is sent where draining. Raises AgentError, SpoolError or DatabaseError."""
        if self._stop_on_signals:
            listen(self._loop, self._terminate, self._hang_up)
        self._spool.check_mounts()
        self._spool.lock()
        asking = self._loop.create_task(self._start.ask_for_time())
        try:
            database, copy = await self._in_thread(self._open_database)
        except BaseException:
            asking.cancel()
            self._threads.shutdown()
            raise
        try:
            require_same(self._spool)
            if copy is not None:
                log("agent.migrated", copy=str(copy), form=VERSION)
            await self._serve(database, asking)
        except Exception:
            if not self._spool.is_gone:
                raise
            self._lose_spool()  # whatever it was that noticed first
        finally:
            asking.cancel()
            await self._loop.run_in_executor(None, database.close)
            if self._parts is not None:
                self._parts.shutdown()
            self._threads.shutdown()
        if self._failure is not None:
            raise AgentError(self._failure)

    def _open_database(self) -> tuple[Database, FilePath | None]:
        return open_database(
            self._spool.database,
            on_failure=self._database_failed,
            on_full=self._database_full,
            on_commit=self._tally.committed,
            copying=self._start.goes_on,
        )

    async def _in_thread(self, work: Callable[..., _T], *values: object) -> _T:
        return await self._loop.run_in_executor(self._threads, work, *values)

    def stop(self) -> None:
        """End in order, as on SIGTERM."""
        self._stop.set()

    async def _serve(self, database: Database, asking: "asyncio.Task[None]") -> None:
        now = self._clock()
        if back := await self._in_thread(catch_up, database, now):
            log("clock.jumped", seconds=-round(back))
        self._parts = parts = Parts(
            self._spool,
            database,
            self._configuration,
            self._tally,
            self._threads,
            await self._in_thread(Store(database).tats, now),
            clock=self._clock,
            monotonic=self._monotonic,
            reserve=self._reserve,
            accepted=lambda job_ids: self._soon(self._accepted, parts, job_ids),
        )
        routines = Routines(
            parts,
            self._service_manager,
            state=lambda: self._state,
            gone=self._lose_spool,
            clock=self._clock,
            monotonic=self._monotonic,
            reserve=self._reserve,
        )
        try:
            await self._recover(parts)
            asking.cancel()
            if self._stop.is_set():
                log("agent.stopped")  # nothing was begun
            else:
                await self._work(parts, routines)
        finally:
            parts.watcher.stop()
            parts.intake.stop()
            parts.orders.close()
            parts.sweep.stop()
            routines.shutdown()

    # --- start ------------------------------------------------------------------------------------------------------

    async def _recover(self, parts: Parts) -> None:
        """What the end before this start left, and the jobs; whoever ends the agent meanwhile need not wait for all of it."""
        now, zone, goes_on = self._clock(), parts.zone(), self._start.goes_on
        goes_on()
        await self._in_thread(recover, self._spool, parts.store, parts.intake, parts.projector, now, zone, goes_on)
        await self._in_thread(parts.notices.recover)
        await parts.sweep.begin()
        if goes_on():
            await self._load(parts)

    async def _load(self, parts: Parts) -> None:
        def read() -> tuple[list[JobRow], dict[int, float | None]]:
            rows = parts.store.live_jobs()
            return rows, parts.store.agenda.first_due([row.id for row in rows])

        rows, due = await self._in_thread(read)
        unknown = {}
        for number, row in enumerate(rows):
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)  # signals are heard, and more time is asked for
                if not self._start.goes_on():
                    return
            job = parts.live(row)
            parts.dispatcher.add(job)
            # Known before the first look, so that a job that waits for a retry is not taken for one that can send.
            job.next_due = due[row.id]
            compact = compact_of(job.manifest, row.manifest, row.timing, parts.zone())
            if compact != row.compact:
                unknown[row.id] = compact
        if unknown:
            parts.store.remember(unknown)
        # What people did while no agent ran holds from the first moment, not from the first look afterwards.
        await parts.orders.obey()
        await parts.orders.edit()
        parts.projector.refresh([row.id for row in rows])

    def _soon(self, call: Callable[..., None], *values: object) -> None:
        """From a thread into the event loop; nothing, once that has ended."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *values)

    def _accepted(self, parts: Parts, job_ids: list[int]) -> None:
        async def add() -> None:
            rows = await self._in_thread(parts.store.jobs, job_ids)
            # What was asked for while they were taken holds from the first moment.
            await parts.orders.begin([row for row in rows if row.id not in parts.dispatcher.jobs], begin)

        def begin(row: JobRow) -> None:
            parts.dispatcher.begin(parts.live(row))
            parts.projector.accepted(row.id, row.total)

        self._group.create_task(add())

    # --- from READY to the end ----------------------------------------------------------------------------------------

    async def _work(self, parts: Parts, routines: Routines) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                try:
                    parts.watcher.start()
                except OSError as error:
                    log("watch.failed", error=error.strerror or str(error))
                tasks = [group.create_task(routine, name=name) for name, routine in routines.all()]
                dispatcher = group.create_task(parts.dispatcher.run(), name="dispatcher")
                projector = group.create_task(parts.projector.run(), name="projector")
                if self._drain:
                    tasks.append(group.create_task(self._stop_when_drained(routines), name="drain"))
                jobs = len(parts.dispatcher.jobs)
                log("agent.started", version=__version__, spool=str(self._spool.path), jobs=jobs)
                self._service_manager.ready(parts.survey.summary())
                self._ready = True
                if self._reload_asked:
                    self._hang_up()
                await self._stop.wait()
                self._state = "stopping"
                parts.dispatcher.stop()
                while not dispatcher.done():
                    self._service_manager.extend(30)
                    await asyncio.wait([dispatcher], timeout=10)
                await self._record_outcomes(parts)
                await self._loop.run_in_executor(None, parts.intake.stop)
                for task in tasks:
                    task.cancel()
                if self._failure is None:
                    await parts.projector.stop()
                    await projector
                else:
                    projector.cancel()
        except* (asyncio.CancelledError, DatabaseError) as group_error:
            if self._failure is None:
                self._failure = str(group_error.exceptions[0])
        if self._failure is None:
            self._state = "stopped"
            await routines.publish()
            log("agent.stopped")

    async def _stop_when_drained(self, routines: Routines) -> None:
        await routines.drained()
        self._stop.set()

    async def _record_outcomes(self, parts: Parts) -> None:
        """The last outcomes may be on their way to the database; what is written behind them is written after them."""
        if not self._database_lost:
            with contextlib.suppress(TimeoutError):  # a full disk: they become *uncertain* at the next start
                async with asyncio.timeout(_RECORD_WITHIN):
                    await parts.store.alive()
                    await parts.dispatcher.conclude()

    # --- signals and failures -------------------------------------------------------------------------------------------

    def _terminate(self, number: signal.Signals) -> None:
        count = 0 if self._parts is None else self._parts.dispatcher.open
        log("agent.stopping", signal=number.name, open=count)
        self._service_manager.stopping(f"waiting for {count} open recipients")
        self._stop.set()

    def _hang_up(self) -> None:
        parts = self._parts
        if parts is None or not self._ready:
            self._reload_asked = True
            return
        self._service_manager.reloading()
        try:
            configuration = self._reload()
        except ValueError as error:
            for line in str(error).splitlines():
                log("agent.reload_failed", problem=line)
        else:
            log("agent.reloaded", changed=parts.use(configuration))
        self._service_manager.ready(parts.survey.summary())

    def _database_failed(self, error: Exception) -> None:
        """Nothing can be recorded any more: end. From the database's thread."""
        failure = f"the database failed and nothing more is sent: {error}; the next start recovers"
        self._database_lost = True
        self._failure = self._failure or (self._told_gone() if self._spool.is_gone else failure)
        self._soon(self._fail)

    def _lose_spool(self) -> None:
        """The spool is not where it was: nobody could find what would be written, nor start where it is now."""
        if self._failure is None:
            self._failure = self._told_gone()
            self._fail()

    def _told_gone(self) -> str:
        return f"the spool is gone: {self._spool.path} was moved, removed or unmounted; put it back, or configure where it is"

    def _fail(self) -> None:
        log("agent.failed", error=self._failure)
        self._stop.set()

    def _database_full(self, full: bool) -> None:
        def tell() -> None:
            if self._parts is not None:
                self._parts.dispatcher.fill_disk(full)
            log("disk.full", free=0) if full else log("disk.free")

        self._soon(tell)
