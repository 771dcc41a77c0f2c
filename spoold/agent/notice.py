"""Tells by mail of jobs that have ended (`notify`): each once, by a small job of the agent's own.

That job comes in by new/ like any other, sealed, with the null sender, and is sent by the default relay on the terms of
all. `storage.outbox` says which jobs are still to be told of; the upload is named there before it is written, and the
commit that accepts it says that it was told. At start, then, an upload that is named and not in new/ was never
written, or never became whole. Of these small jobs nothing is told.
"""

import asyncio
import secrets
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from zoneinfo import ZoneInfo

from spoold.core.document.writer import manifest_text
from spoold.core.folder import MANIFEST
from spoold.core.manifest import DEFAULT_MESSAGE
from spoold.core.recipient.address import Address
from spoold.event import log
from spoold.failpoint import failpoint
from spoold.report.heading import heading_of
from spoold.report.notice import NAMED, failures, notice
from spoold.report.status import Status
from spoold.report.table import recipients_csv
from spoold.storage.database import DatabaseError
from spoold.storage.draft import Draft, NameTakenError
from spoold.storage.ledger import Ledger
from spoold.storage.outbox import Ended, Outbox
from spoold.storage.record import JobRow
from spoold.storage.spooldir import Spool
from spoold.storage.store import Store

_EVERY = 1.0
#: Seconds until a summary that could not be written is tried again.
_AFTER_ERROR = 30.0
#: What is made in tmp/: no job's name begins with a dot, so nobody else's folder is called like this.
_DRAFT = ".notice"
#: How its name begins; what a killed process left is removed at the next start.
MAKING = f".{_DRAFT}."
#: At most so many bytes of recipients are attached, and at most a part of what a message may have.
_ATTACHED = 1_000_000
_REASONS = 100


class Notices:
    """See the module. `address` gives whom to tell now, None for nobody; `limit` the most bytes that a message may have;
    `clock` POSIX seconds, `monotonic` seconds that no one sets."""

    def __init__(
        self,
        spool: Spool,
        store: Store,
        ledger: Ledger,
        outbox: Outbox,
        *,
        address: Callable[[], Address | None],
        limit: Callable[[], int],
        formulas: Callable[[], bool],
        zone: Callable[[], ZoneInfo],
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._spool = spool
        self._store = store
        self._ledger = ledger
        self._outbox = outbox
        self._address = address
        self._limit = limit
        self._formulas = formulas
        self._zone = zone
        self._clock = clock
        self._monotonic = monotonic
        #: When to try to write the upload of a job; infinity where it is written.
        self._again: dict[int, float] = {}
        self._stopping = False

    async def run(self, threads: ThreadPoolExecutor) -> None:
        """Tell of what ends, until cancelled; an upload that is being written then is finished."""
        while True:
            look = asyncio.get_running_loop().run_in_executor(threads, self.look)
            try:
                await asyncio.shield(look)
            except asyncio.CancelledError:
                self._stopping = True
                await asyncio.gather(look, return_exceptions=True)
                raise
            await asyncio.sleep(_EVERY)

    # --- in a thread ------------------------------------------------------------------------------------------------

    def recover(self) -> None:
        """Before intake looks into new/: find out what a killed process had written."""
        files = self._spool.files
        for ended in self._outbox.pending():
            if ended.upload is not None and files.stat(self._spool.fd("new"), (ended.upload,)) is not None:
                self._again[ended.job_id] = float("inf")

    def settled(self) -> bool:
        """Whether all that ended is told of, or cannot be for now."""
        return all(ended.job_id in self._again for ended in self._outbox.pending())

    def look(self) -> None:
        """Write the uploads that tell of jobs that have ended."""
        pending = self._outbox.pending()
        known = {ended.job_id for ended in pending}
        self._again = {job_id: at for job_id, at in self._again.items() if job_id in known}
        if not pending:
            return
        address = self._address()
        if address is None:
            # Those that an upload tells of already are told of: only its acceptance takes them off the list.
            self._outbox.drop(ended.job_id for ended in pending if self._again.get(ended.job_id) != float("inf"))
            return
        for ended in pending:
            if self._stopping:
                return
            if self._again.get(ended.job_id, 0.0) > self._monotonic():
                continue
            self._again[ended.job_id] = self._monotonic() + _AFTER_ERROR
            job = self._store.job(ended.job_id)
            try:
                if job is not None:
                    self._write(ended, job, address)
                    self._again[ended.job_id] = float("inf")
            except DatabaseError:
                raise
            except OSError as error:
                log("notice.failed", job=job and job.name, error=error.strerror or str(error))
            except Exception as error:  # noqa: BLE001 - one job's surprise must not keep the others untold
                log("agent.task_failed", where=f"notice of {job and job.name}", error=repr(error))

    def _write(self, ended: Ended, job: JobRow, address: Address) -> None:
        files = self._spool.files
        message = self._message(job, address)
        upload = ended.upload
        if upload is None:
            upload = f"notice-{job.name[:80]}-{secrets.token_hex(4)}"
            self._outbox.name(job.id, upload)
        failpoint("notice-named")
        manifest = {
            "sender": "",
            "recipients": [address.envelope],
            "description": f"how {job.name} ended",
            "allow_duplicate": True,
        }
        with Draft(files, self._spool.fd("tmp"), _DRAFT) as draft:
            draft.add((DEFAULT_MESSAGE,), [message])
            draft.add((MANIFEST,), [manifest_text(manifest).encode()])
            draft.seal()
            try:
                draft.publish(self._spool.fd("new"), upload)
            except NameTakenError:
                return  # whatever it is, it goes for it: the name was made up for this job alone
        failpoint("notice-written")

    def _message(self, job: JobRow, address: Address) -> bytes:
        heading = heading_of(job, self._zone())
        counts = self._ledger.counts(job.id)
        attempts, _, _ = self._ledger.attempt_count(job.id)
        status = Status(
            job, heading.description, heading.sender, counts, heading.zone, self._clock(), None, None, None, attempts
        )
        found = failures(
            recipients_csv(self._ledger, job.id, heading.zone, NAMED, formulas=self._formulas()),
            sum(counts[state] for state in NAMED),
            min(_ATTACHED, self._limit() // 3),
        )
        reasons = self._ledger.replies(job.id, _REASONS)
        return notice(
            status,
            reasons,
            found,
            address=(address.local, address.domain),
            host=socket.gethostname(),
            token=secrets.token_hex(12),
        )
