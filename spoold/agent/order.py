"""Carries out what people ask for in the folders of live jobs: cancelling, holding, retrying, another timing."""

import asyncio
import functools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from zoneinfo import ZoneInfo

from spoold.agent.control_file import Control, Signal
from spoold.core.document.reader import DocumentError
from spoold.core.manifest import Manifest
from spoold.core.state import JobState, Standing
from spoold.core.terms import Defaults, terms_of, timing_errors
from spoold.delivery.dispatcher import Dispatcher
from spoold.delivery.job import LiveJob
from spoold.event import log
from spoold.intake.parser import parse_apart
from spoold.report.projector import Projector
from spoold.storage.manifest import Manifests, compact_of
from spoold.storage.obstacle import text_of
from spoold.storage.record import JobRow
from spoold.storage.spooldir import Spool
from spoold.storage.store import Store

_EDITED = "the edited job.yaml"
#: Those that may send are looked at in every round, the others in one of so many.
_EVERYBODY = 4
#: Seconds within which every job is looked at, and more.
_SOON = 4.0


class Orders:
    """See the module. `defaults` gives the configuration's as they are now, `clock` POSIX seconds."""

    def __init__(
        self,
        spool: Spool,
        store: Store,
        dispatcher: Dispatcher,
        projector: Projector,
        *,
        clock: Callable[[], float],
        defaults: Callable[[], Defaults],
    ) -> None:
        self._control = Control(spool)
        self._store = store
        self._dispatcher = dispatcher
        self._projector = projector
        self._clock = clock
        self._defaults = defaults
        self._round = -1
        self._troubles: dict[int, str] = {}
        self._manifests = Manifests(parse_apart)
        self._edited: dict[int, bytes] = {}
        self._parsed: dict[int, int] = {}
        self._stirred = asyncio.Event()
        self._parsers = ThreadPoolExecutor(1, thread_name_prefix="edit")
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="control")

    def close(self) -> None:
        self._threads.shutdown()
        self._parsers.shutdown(cancel_futures=True)

    async def obey(self) -> None:
        """Look at every live job's folder, and do what it says; edits that take long to be parsed are done by `edit`."""
        now = self._clock()
        self._round += 1
        everybody = self._round % _EVERYBODY == 0
        if everybody:
            self._control.forget(self._dispatcher.jobs.keys())
            self._troubles = {job: told for job, told in self._troubles.items() if job in self._dispatcher.jobs}
            self._parsed = {job_id: size for job_id, size in self._parsed.items() if job_id in self._dispatcher.jobs}
        jobs = [job for job in self._dispatcher.jobs.values() if everybody or _may_send_soon(job.standing, now)]
        await self._look(jobs, manifests=everybody)

    async def edit(self) -> None:
        """Carry out the edits that were found and take long to be parsed, those first whose job had the least parsed."""
        while self._edited:
            job_id = min(self._edited, key=lambda job_id: self._parsed.get(job_id, 0))
            source = self._edited.pop(job_id)
            if (job := self._dispatcher.jobs.get(job_id)) is not None:
                self._parsed[job_id] = self._parsed.get(job_id, 0) + len(source)
                await self._edit(job, source)

    async def edit_always(self) -> None:
        """The same of all that will be found, until cancelled."""
        while True:
            await self._stirred.wait()
            self._stirred.clear()
            await self.edit()

    async def begin(self, rows: Sequence[JobRow], add: Callable[[JobRow], None]) -> None:
        """Add new jobs to those that are sent, and do what their folders say before a message of theirs can leave."""
        asked = await self._signals([(row.id, row.name, row.standing.state.folder) for row in rows], manifests=False)
        signals = {signal.job_id: signal for signal in asked}
        for row in rows:
            add(row)
            if row.id in signals:
                # CANCEL and HOLD count from the call on, not from its end.
                await self._try(signals[row.id])

    async def _look(self, live: Iterable[LiveJob], *, manifests: bool) -> None:
        jobs = [(job.id, job.name, job.standing.state.folder) for job in live]
        for found in await self._signals(jobs, manifests=manifests):
            await self._try(found)

    async def _try(self, found: Signal) -> None:
        """Obey; of what the file system refuses it is told, and it is asked for again at the next look."""
        try:
            await self._obey(found)
        except OSError as error:
            self._tell(found.job_id, text_of(error))
        else:
            self._troubles.pop(found.job_id, None)

    def _tell(self, job_id: int, trouble: str) -> None:
        """Of each job's trouble once: the others' orders wait for nobody's."""
        if self._troubles.get(job_id) != trouble and (job := self._dispatcher.jobs.get(job_id)) is not None:
            log("spool.failed", where=f"control files of {job.name}", error=trouble)
        self._troubles[job_id] = trouble

    async def _signals(self, jobs: list[tuple[int, str, str]], *, manifests: bool) -> list[Signal]:
        look = functools.partial(self._control.look, jobs, self._clock(), manifests=manifests)
        return await asyncio.get_running_loop().run_in_executor(self._threads, look)

    async def _obey(self, found: Signal) -> None:
        job = self._dispatcher.jobs.get(found.job_id)
        if job is None:
            return
        if (found.cancel or found.missing) and not job.cancelled:
            reason = "CANCEL" if found.cancel else "the job's folder was removed"
            log("job.cancelled", job=job.name, reason=reason)
            await self._dispatcher.cancel(job)
        if found.hold != job.held and not found.missing:
            await self._dispatcher.hold(job, found.hold)
        if found.manifest is not None and found.manifest != job.source:
            if self._manifests.knows(found.manifest, self._defaults().zone):
                await self._edit(job, found.manifest)
            else:
                self._edited[job.id] = found.manifest
                self._stirred.set()
        if found.retry:
            # Nobody is made due whom nobody will be sent to: CANCEL wins.
            if not job.cancelled:
                count = await self._dispatcher.retry(job, uncertain=False)
                if found.retry_uncertain:
                    count += await self._dispatcher.retry(job, uncertain=True)
                log("job.retried", job=job.name, recipients=count)
            await asyncio.get_running_loop().run_in_executor(
                self._threads, self._control.remove_retry, job.id, job.name
            )

    async def _parse(self, source: bytes, zone: ZoneInfo) -> Manifest:
        if self._manifests.knows(source, zone):
            return self._manifests.parse(source, zone)
        return await asyncio.get_running_loop().run_in_executor(self._parsers, self._manifests.parse, source, zone)

    async def _edit(self, job: LiveJob, source: bytes) -> None:
        """Somebody edited job.yaml: its timing counts from now on, or the report says why not."""
        job.source = source
        defaults = self._defaults()
        notes = [warning for warning in job.warnings if not warning.startswith(_EDITED)]
        try:
            edited = await self._parse(source, defaults.zone)
            problems = timing_errors(edited.timing, defaults, self._clock())
        except DocumentError as error:
            problems = [str(problem) for problem in error.problems]
        if problems:
            log("job.edit_refused", job=job.name, problem=problems[0])
            notes += [f"{_EDITED} is wrong and the old timing stays: {problem}" for problem in problems]
        else:
            if _but_for_timing(edited) != _but_for_timing(job.manifest):
                notes.append(f"{_EDITED} changes more than the timing; only that can change once a job was taken")
            notes += [f"{_EDITED}: {note}" for note in edited.notes]
            if edited.timing != job.manifest.timing:
                log("job.edited", job=job.name)
            job.manifest = replace(job.manifest, timing=edited.timing)
            self._dispatcher.retime(job, terms_of(edited.timing, defaults, job.accepted_at))
            row = await asyncio.get_running_loop().run_in_executor(self._threads, self._store.job, job.id)
            if row is not None:
                compact = compact_of(job.manifest, row.manifest, source, defaults.zone)
                await self._store.retime(job.id, source, compact)
        job.warnings = notes
        await self._store.warn(job.id, notes)
        self._projector.changed(job.id, moved=True)


def _may_send_soon(standing: Standing, now: float) -> bool:
    """Whether a message may leave before the look after the next: then a CANCEL must not wait for that."""
    return standing.state is JobState.SENDING or (
        standing.state is not JobState.HELD and (standing.reason == "relay" or (standing.next_at or 0) < now + _SOON)
    )


def _but_for_timing(manifest: Manifest) -> tuple[object, ...]:
    """What must stay as it was; where in the file something stands does not count."""
    recipients: object = manifest.recipients
    if isinstance(recipients, tuple):
        recipients = [(recipient.address, recipient.message) for recipient in recipients]
    return (
        manifest.sender,
        manifest.message,
        recipients,
        manifest.description,
        manifest.relay,
        manifest.expect,
        manifest.on_uncertain,
        manifest.strict,
        manifest.allow_duplicate,
    )
