"""Takes complete uploads and makes jobs of them.

Each upload is looked at in a worker thread; one that is complete is claimed, taken, examined, put into the database,
accepted in one commit, and only then moved to where it belongs. Whatever goes wrong before that commit, the upload
goes back to new/.
"""

import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from spoold.agent.acceptance import Acceptance, Accepted, Settings
from spoold.agent.event import log
from spoold.agent.inbox import Inbox, Seen, Upload
from spoold.agent.pickup import NO_JOB, Pickups
from spoold.agent.projector import Projector
from spoold.agent.taking import ChangedError, Taken, claim, drop_claim, give_back, set_aside, take
from spoold.agent.tally import Tally
from spoold.core.completeness import Rule
from spoold.core.problem import printable
from spoold.core.state import JobState
from spoold.failpoint import failpoint
from spoold.storage.admission import Admission
from spoold.storage.database import DatabaseError
from spoold.storage.spooldir import CLAIM, TAKE, TAKEN, Spool

#: Seconds until an upload that could not be taken is looked at again.
_AFTER_ERROR = 30.0
_DISK = "the disk is nearly full; it is taken when there is room"


class Intake:
    """See the module. `accepted` is told the id of each new job that is to be sent, from a worker thread."""

    def __init__(
        self,
        spool: Spool,
        admission: Admission,
        projector: Projector,
        settings: Settings,
        tally: Tally,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        accepted: Callable[[int], None],
        reserve: int,
    ) -> None:
        self._spool = spool
        self._admission = admission
        self._projector = projector
        self._settings = settings
        self._tally = tally
        self._clock = clock
        self._monotonic = monotonic
        self._accepted = accepted
        self._acceptance = Acceptance(spool, admission, clock=clock)
        self._reserve = reserve
        self._inbox = Inbox(spool.files, settings.policy, clock=clock, monotonic=monotonic)
        self._pickups = Pickups(spool, clock=clock)
        self._uploads: dict[str, Upload] = {}
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="intake")
        self._renamed: set[str] = set()
        self._stopping = False
        #: A scan may be on its way when the end comes: threads that have ended take nothing more.
        self._submitting = threading.Lock()

    # --- for the event loop -----------------------------------------------------------------------------------------

    def use(self, settings: Settings) -> None:
        self._settings = settings
        self._inbox.policy = settings.policy
        for upload in list(self._uploads.values()):
            upload.look_at = 0.0

    def hint(self, name: str, *, renamed_in: bool = False) -> None:
        """Something stirred in the upload `name`; `renamed_in` says that its folder was renamed in from tmp/."""
        if renamed_in:
            self._renamed.add(name)
        upload = self._uploads.get(name)
        if upload is not None:
            upload.renamed_in = upload.renamed_in or renamed_in
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
        for name in names - self._uploads.keys():
            self._uploads[name] = Upload(name, now, now, name in self._renamed)
            log("upload.seen", upload=printable(name))
        self._renamed &= names
        wait: float | None = None
        for upload in list(self._uploads.values()):
            if upload.busy:
                continue
            if upload.look_at <= now:
                with self._submitting:
                    if self._stopping:
                        return None
                    upload.busy = True
                    self._threads.submit(self._handle, upload)
            else:
                wait = upload.look_at - now if wait is None else min(wait, upload.look_at - now)
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

    # --- in a worker thread -----------------------------------------------------------------------------------------

    def _handle(self, upload: Upload) -> None:
        try:
            self._look(upload)
        except DatabaseError:
            upload.look_at = float("inf")  # the agent is about to end
        except ChangedError as error:
            self._problem(upload, str(error))
            upload.look_at = self._monotonic() + 1.0
        except OSError as error:
            hint = "; copy with `rsync --chmod=D2770,F0660`" if isinstance(error, PermissionError) else ""
            self._problem(upload, f"cannot be taken: {error.strerror or error}{hint}")
            upload.look_at = self._monotonic() + _AFTER_ERROR
        except Exception as error:  # noqa: BLE001 - one upload's surprise must not stop the others
            log("agent.task_failed", where=f"intake of {printable(upload.name)}", error=repr(error))
            self._problem(upload, f"internal error: {error!r}")
            upload.look_at = self._monotonic() + _AFTER_ERROR
        finally:
            upload.busy = False

    def _problem(self, upload: Upload, text: str) -> None:
        if upload.waits_for != text:
            log("upload.problem", upload=printable(upload.name), problem=text)
        upload.waits_for = text

    def _look(self, upload: Upload) -> None:
        if upload.finish is not None:
            upload.finish()
            return
        begun = self._monotonic()
        try:
            with self._spool.job("new", upload.name) as root:
                seen = self._inbox.look(root, upload)
        except FileNotFoundError:
            return
        except NotADirectoryError:
            self._look_at_file(upload, begun)
            return
        verdict = seen.verdict
        if verdict.rule is None:
            upload.waits_for = verdict.waits_for
            # Notification may fail and network file systems have none: look again soon, but not all the time.
            cost = self._monotonic() - begun
            soonest = max(1.0, 10 * cost)
            upload.look_at = begun + max(0.05, min(verdict.look_again or soonest, soonest))
            return
        if self._spool.files.free_bytes(self._spool.root) < self._reserve:
            self._problem(upload, _DISK)
            upload.look_at = begun + 5.0
            return
        errors = [*self._pickups.errors.pop(upload.name, ()), *verdict.errors]
        self._take(upload, seen, verdict.rule, errors)

    def _look_at_file(self, upload: Upload, begun: float) -> None:
        """A single message that brings its envelope becomes an upload; any other file is no job."""
        found = self._pickups.look(upload, self._settings.policy, begun)
        if isinstance(found, str):
            if found.startswith(NO_JOB):
                self._problem(upload, found)
                upload.look_at = begun + 10.0
            else:
                upload.waits_for = found
                upload.look_at = begun + 1.0
        elif self._spool.files.free_bytes(self._spool.root) - found.size < self._reserve:
            self._problem(upload, _DISK)
            upload.look_at = begun + 5.0
        elif (name := self._pickups.take(found)) is not None:
            log("upload.seen", upload=printable(name))
            self._uploads.setdefault(name, Upload(name, begun, begun))

    def _take(self, upload: Upload, seen: Seen, rule: Rule, errors: list[str]) -> None:
        name = claim(self._spool, upload.name)
        try:
            if not seen.entries:
                # Too large to be looked at: nothing of it is taken but its report.
                self._spool.files.make_directory(self._spool.fd("active"), TAKE + name)
                taken = Taken({}, os.urandom(32))
            else:
                taken = take(self._spool, name, seen.entries.values(), seen.owner, seen.unread)
            if rule is Rule.SEALED and not errors:
                self._check_seal(upload, taken)
            with self._spool.job("active", TAKE + name) as root:
                accepted = self._acceptance.admit(name, root, seen, taken, rule, errors, self._settings)
        except (OSError, ChangedError):
            # Where even that fails, it is tried again: nobody else looks at a claimed upload before the next start.
            upload.finish = lambda: self._return(upload, name)
            upload.finish()
            raise
        upload.finish = lambda: self._finish(upload, name, accepted, rule)
        upload.finish()

    def _return(self, upload: Upload, name: str) -> None:
        """Put an upload that could not be taken back into new/, to be looked at again."""
        back = give_back(self._spool, name)
        upload.finish = None
        if back != name:
            log("upload.problem", upload=printable(name), problem=f"was put back as {printable(back)}")

    def _finish(self, upload: Upload, name: str, accepted: Accepted, rule: Rule) -> None:
        """Put an accepted job where it belongs. From here on nothing goes back: what fails is tried again."""
        failpoint("after-accept")
        if self._spool.files.stat(self._spool.fd("active"), (TAKE + name,)) is not None:
            self._spool.move(TAKE + name, "active", accepted.state.folder, accepted.name)
        self._clean(name, accepted.name)
        if accepted.failed or accepted.state.final:
            self._projector.write(accepted.job_id)
        self._admission.settle(accepted.job_id)
        upload.finish = None
        self._uploads.pop(upload.name, None)
        self._tally.took(accepted.state, accepted.admitted.standing.reason, accepted.recipients)
        if accepted.state is JobState.REJECTED:
            problems = len(accepted.admitted.errors)
            log("job.rejected", job=accepted.name, reason=accepted.admitted.standing.reason, problems=problems)
        elif accepted.state is JobState.CANCELLED:
            log("job.cancelled", job=accepted.name, reason="CANCEL was in the upload")
        else:
            log("job.accepted", job=accepted.name, recipients=accepted.recipients, rule=rule.value)
            self._accepted(accepted.job_id)

    def _check_seal(self, upload: Upload, taken: Taken) -> None:
        for name, (_, expected) in upload.hashes.items():
            if name in taken.hashes and taken.hashes[name].hex() != expected:
                raise ChangedError(f"{printable(name)} changed while the upload was being taken")

    def _clean(self, name: str, job: str) -> None:
        set_aside(self._spool, name, job)
        try:
            drop_claim(self._spool, name, job)
        except OSError as error:
            # Another user's folder that the agent may not empty: it was copied, and is never looked at again.
            log("upload.problem", upload=printable(name), problem=f"was taken; it cannot be removed: {error.strerror}")

    # --- at start ---------------------------------------------------------------------------------------------------

    def recover(self) -> None:
        """Finish or undo what a killed process had begun; before anything else uses the spool."""
        self._admission.discard_unaccepted()
        self._pickups.recover()
        spool = self._spool
        for name in spool.hidden("new", TAKEN):
            with contextlib.suppress(OSError):
                spool.files.remove_tree(spool.fd("new"), TAKEN + name)
        claims = spool.hidden("new", CLAIM)
        for name in sorted({*claims, *spool.hidden("active", TAKE)}):
            claimed = spool.files.stat(spool.fd("new"), (CLAIM + name,))
            job = self._admission.claimed_by(name, claimed.inode if claimed else 0)
            if job is None:
                give_back(spool, name)
                continue
            if spool.files.stat(spool.fd("active"), (TAKE + name,)) is not None:
                spool.move(TAKE + name, "active", job[1].folder, job[0])
            self._clean(name, job[0])
        for job_id in self._admission.unsettled():
            # A job that has ended is looked at by nobody else; one with bad recipients tells of them before it sends.
            self._projector.write(job_id)
        self._admission.settle()
