"""Takes complete uploads and makes jobs of them.

Uploads are looked at in worker threads; those that are complete are claimed, taken, examined, put into the database,
accepted in one commit, and only then moved to where they belong: many small ones in one go, a large one by itself.
Whatever goes wrong before that commit, the uploads go back to new/.
"""

import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from spoold.core.folder import CANCEL
from spoold.core.problem import printable
from spoold.event import log
from spoold.intake.acceptance import is_large
from spoold.intake.batch import Batches, Complete
from spoold.intake.inbox import Inbox, LargeReadingError
from spoold.intake.lane import Lanes
from spoold.intake.pickup import NO_JOB, Pickups
from spoold.intake.rest import Rest
from spoold.intake.room import Room
from spoold.intake.salvage import Salvage
from spoold.intake.settings import Settings
from spoold.intake.turn import Turns
from spoold.intake.upload import Upload
from spoold.storage.admission import Admission
from spoold.storage.entry import Kind
from spoold.storage.spooldir import Spool
from spoold.tally import Tally

#: Uploads that are looked at and taken in one go, at most.
_BATCH = 50
#: … and looked at for so many seconds, before those that are complete are taken.
_SLICE = 0.25
#: Looking at an upload takes long from so many seconds on.
_LONG = 0.05
#: Large uploads of so many users are taken at the same time, at most: one user's wait for each other.
_USERS = 4


class Intake:
    """See the module. From worker threads `report` writes that of a job, and `accepted` is told the ids of the new jobs that
    are to be sent."""

    def __init__(
        self,
        spool: Spool,
        admission: Admission,
        settings: Settings,
        tally: Tally,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        report: Callable[[int], None],
        accepted: Callable[[list[int]], None],
        reserve: int,
    ) -> None:
        self._spool = spool
        self._admission = admission
        self._report = report
        self._settings = settings
        self._monotonic = monotonic
        self._accepted = accepted
        self._room = Room(spool, reserve)
        rest = Rest(clock, monotonic)
        self._inbox = Inbox(spool.files, settings.policy, settings.defaults.zone, rest=rest, monotonic=monotonic)
        self._batches = Batches(
            spool,
            admission,
            tally,
            self._room,
            self._inbox.manifests,
            clock=clock,
            monotonic=monotonic,
            report=report,
            enlisted=self._enlisted,
            cancelled=lambda one: self._inbox.cancel(one.seen.folder),
        )
        self._pickups = Pickups(spool, rest=rest)
        self._uploads: dict[str, Upload] = {}
        # One: a second would only take Python's lock from the first at every step.
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="intake")
        self._turns = Turns[Upload]()
        self._working = False
        self._lanes = Lanes(_USERS, monotonic=monotonic)
        self._renamed: set[str] = set()
        self._stopping = False
        #: A scan may be on its way when the end comes: threads that have ended take nothing more.
        self._submitting = threading.Lock()

    # --- for the event loop -----------------------------------------------------------------------------------------

    def use(self, settings: Settings) -> None:
        self._settings = settings
        self._inbox.policy = settings.policy
        self._inbox.zone = settings.defaults.zone
        for upload in list(self._uploads.values()):
            upload.look_at = 0.0

    def hint(self, name: str, *, renamed_in: bool | None = None) -> None:
        """The upload `name` came, by a rename from outside new/, or otherwise, or has gone; None: it stirred."""
        if renamed_in:
            self._renamed.add(name)
        elif renamed_in is not None:
            self._renamed.discard(name)
        upload = self._uploads.get(name)
        if upload is not None:
            if renamed_in is not None:
                upload.renamed_in = upload.arrived = renamed_in
            upload.look_at = 0.0

    def scan(self) -> float | None:
        """Look for uploads and start what is due; returns the seconds until the next look is due, None without
        uploads.
        """
        if self._stopping:
            return None
        now = self._monotonic()
        names = set(self._spool.jobs("new"))
        for upload in list(self._uploads.values()):
            if upload.name not in names and not upload.busy and upload.finish is None:
                self._uploads.pop(upload.name, None)
                self._inbox.forget(upload.folder)
        for name in names - self._uploads.keys():
            entry = self._spool.files.stat(self._spool.fd("new"), (name,))
            owner = 0 if entry is None else entry.uid
            self._uploads[name] = Upload(name, now, now, name in self._renamed, owner=owner)
            log("upload.seen", upload=printable(name))
        self._renamed &= names
        wait: float | None = None
        due: list[Upload] = []
        cancelled: list[Upload] = []
        for upload in list(self._uploads.values()):
            if upload.queued and self._asks_cancel(upload):
                cancelled.append(upload)
            if upload.busy:
                continue
            if upload.look_at <= now:
                due.append(upload)
            else:
                wait = upload.look_at - now if wait is None else min(wait, upload.look_at - now)
        with self._submitting:
            if self._stopping:
                return None
            due += [upload for upload in cancelled if upload.queued]
            for upload in due:
                upload.busy, upload.queued = True, False
                self._turns.put(upload.owner, upload)
            if due and not self._working:
                self._working = True
                self._threads.submit(self._work)
        return wait

    @property
    def waiting(self) -> list[Upload]:
        """The uploads that are not complete yet, by name."""
        return sorted(self._uploads.values(), key=lambda upload: upload.name)

    @property
    def settling(self) -> bool:
        """Whether an upload is about to be taken: it is being looked at, or only time is missing."""
        return any(
            upload.busy or not upload.looked or (upload.waits_for or "").endswith("without a change")
            for upload in list(self._uploads.values())
        )

    def stop(self) -> None:
        """End; what is being taken is finished first."""
        with self._submitting:
            self._stopping = True
        self._threads.shutdown(cancel_futures=True)
        self._lanes.stop()

    # --- in a worker thread -----------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Take what is complete of what is due, as long as there is something."""
        while True:
            small: dict[int, list[Complete]] = {}
            begun = self._monotonic()
            while sum(map(len, small.values())) < _BATCH and self._monotonic() - begun < _SLICE:
                with self._submitting:
                    turn = None if self._stopping else self._turns.next()
                    if turn is None and not small:
                        self._working = False
                        return
                if turn is None:
                    break
                owner, upload = turn
                at = self._monotonic()
                if (complete := self._handle(upload)) is not None:
                    small.setdefault(owner, []).append(complete)
                self._spend(owner, self._monotonic() - at)
            if small:
                self._enlist(small)

    def _enlist(self, small: dict[int, list[Complete]]) -> None:
        """Many small ones in one go, each owner's by turns: what that takes is shared among them."""
        batch = [one for ones in small.values() for one in ones]
        begun = self._monotonic()
        self._batches.enlist(batch, self._settings)
        each = (self._monotonic() - begun) / len(batch)
        for owner, ones in small.items():
            self._spend(owner, each * len(ones))

    def _spend(self, owner: int, seconds: float) -> None:
        with self._submitting:
            self._turns.spend(owner, seconds)

    def _handle(self, upload: Upload) -> Complete | None:
        """Look at the upload; returns it if it is complete and small. A large one is taken by itself."""
        with self._batches.telling(upload):
            if upload.slow and not self._asks_cancel(upload):
                self._queue(upload)
                return None
            try:
                complete = self._complete(upload)
            except LargeReadingError:
                upload.slow = True
                self._queue(upload)
                return None
            if complete is None or not is_large(complete.seen.entries):
                return complete
            enlist = functools.partial(self._batches.enlist, [complete], self._settings)
            self._lanes.submit(upload.owner, enlist)
        return None

    def _queue(self, upload: Upload) -> None:
        upload.queued = True
        self._lanes.submit(upload.owner, functools.partial(self._handle_large, upload))

    def _asks_cancel(self, upload: Upload) -> bool:
        entry = self._spool.files.stat(self._spool.fd("new"), (upload.name, CANCEL))
        return entry is not None and entry.kind is Kind.FILE

    def _handle_large(self, upload: Upload) -> None:
        """The same of one that takes long to look at."""
        with self._submitting:
            if not upload.queued:
                return  # CANCEL was quicker
            upload.queued = False
        with self._batches.telling(upload):
            upload.patient = True
            begun = self._monotonic()
            try:
                complete = self._complete(upload)
            finally:
                upload.patient = False
                upload.slow = self._monotonic() - begun > _LONG
            if complete is not None:
                self._batches.enlist([complete], self._settings)

    def _complete(self, upload: Upload) -> Complete | None:
        complete = self._look(upload)
        if complete is None:
            upload.busy = False
        else:
            # The next folder of this name has to show by itself how it came.
            self._renamed.discard(upload.name)
            self._inbox.remember(complete.seen, renamed_in=upload.renamed_in)
        return complete

    def _look(self, upload: Upload) -> Complete | None:
        """The upload if it is complete."""
        if upload.finish is not None:
            upload.finish()
            return None
        begun = self._monotonic()
        try:
            with self._spool.job("new", upload.name) as root:
                seen = self._inbox.look(root, upload)
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            self._look_at_file(upload, begun)
            return None
        verdict = seen.verdict
        if verdict.rule is None:
            upload.waits_for = verdict.waits_for
            # What changes inside an upload is not notified: look again soon, but not all the time.
            cost = self._monotonic() - begun
            soonest = max(1.0, 10 * cost)
            upload.look_at = begun + max(0.05, min(verdict.look_again or soonest, soonest))
            return None
        if (lacking := self._room.lacks(seen.folder, seen.to_copy)) is not None:
            upload.tell(lacking)
            upload.look_at = begun + 5.0
            return None
        errors = [*self._pickups.errors.pop(upload.name, ()), *verdict.errors]
        return Complete(upload, seen, verdict.rule, errors)

    def _look_at_file(self, upload: Upload, begun: float) -> None:
        """A single message that brings its envelope becomes an upload; any other file is no job."""
        found = self._pickups.look(upload, self._settings.policy, begun)
        if isinstance(found, str):
            if found.startswith(NO_JOB):
                upload.tell(found)
                upload.look_at = begun + 10.0
            else:
                upload.waits_for = found
                upload.look_at = begun + 1.0
        elif (lacking := self._room.lacks(found.inode, found.size)) is not None:
            upload.tell(lacking)
            upload.look_at = begun + 5.0
        else:
            try:
                name = self._pickups.take(found)
            finally:
                self._room.release(found.inode)
            if name is not None:
                log("upload.seen", upload=printable(name))
                self._uploads.setdefault(name, Upload(name, begun, begun))

    def _enlisted(self, batch: list[Complete]) -> None:
        for one in batch:
            self._uploads.pop(one.upload.name, None)
            self._inbox.forget(one.seen.folder)
        self._accepted([one.job.job_id for one in batch if not one.job.state.final])

    # --- at start ---------------------------------------------------------------------------------------------------

    def recover(self) -> list[int]:
        """Finish or undo what a killed process had begun; before anything else uses the spool.

        Returns the jobs whose reports are still to be written.
        """
        self._admission.discard_unaccepted()
        self._pickups.recover()
        return Salvage(self._spool, self._admission, self._report).run()
