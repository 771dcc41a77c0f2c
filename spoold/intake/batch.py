"""Makes jobs of complete uploads, many small ones in one go: the way from new/ to the folder where a job belongs.

Each upload is claimed, brought into the agent's hands, examined, accepted, and only then moved. Whatever goes wrong
before it is accepted, it goes back to new/; what goes wrong afterwards is tried again.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from spoold.core.completeness import Rule
from spoold.core.folder import CANCEL
from spoold.core.problem import printable
from spoold.core.state import JobState
from spoold.event import log
from spoold.failpoint import failpoint
from spoold.intake.acceptance import Acceptance, Accepted, Prepared
from spoold.intake.claim import claim, give_back, hand_over, make_way, remove_rest, set_aside
from spoold.intake.custody import ChangedError, Custody, Taken, digest, leave, moves, secure, take
from spoold.intake.room import Room
from spoold.intake.settings import Settings
from spoold.intake.time_limit import OvertimeError
from spoold.intake.upload import Seen, Upload
from spoold.storage.admission import Admission
from spoold.storage.database import DatabaseError
from spoold.storage.entry import NotRegularError
from spoold.storage.manifest import Manifests
from spoold.storage.spooldir import TAKE, Spool, plain_name
from spoold.tally import Tally

#: Seconds until an upload that could not be taken is looked at again.
_AFTER_ERROR = 5.0
#: What is shown of an upload meanwhile.
TAKING = "nothing: it is being taken"
#: Of an upload whose owner took it away too late to leave nothing, too early to have it sent.
REMOVED = "was removed while it was being taken; nothing of it is sent"


@dataclass(slots=True)
class Complete:
    """A complete upload on its way to being a job; `errors` is what is known to be wrong with it already."""

    upload: Upload
    seen: Seen
    rule: Rule
    errors: list[str]
    name: str = ""
    """Its hidden folders', without their prefixes, from when it was claimed; see `claim.plain_name`."""
    custody: Custody | None = None
    prepared: Prepared | None = None
    rest: str | None = None
    """What is left of the upload, set aside."""
    accepted: Accepted | None = None

    def fail(self, error: str) -> None:
        """It is to be rejected for this."""
        if error not in self.errors:
            self.errors.append(error)

    @property
    def job(self) -> Accepted:
        """After it was accepted."""
        assert self.accepted is not None  # noqa: S101
        return self.accepted


class Batches:
    """See the module. For intake's threads; `report` writes that of a job, `enlisted` is told of the uploads that have become
    jobs, in their folders, and `cancelled` of those that are to be none when they come back."""

    def __init__(
        self,
        spool: Spool,
        admission: Admission,
        tally: Tally,
        room: Room,
        manifests: Manifests,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        report: Callable[[int], None],
        enlisted: Callable[[list[Complete]], None],
        cancelled: Callable[[Complete], None],
    ) -> None:
        self._spool = spool
        self._admission = admission
        self._report = report
        self._tally = tally
        self._room = room
        self._monotonic = monotonic
        self._enlisted = enlisted
        self._cancelled = cancelled
        self._acceptance = Acceptance(spool, admission, manifests, clock=clock)

    def enlist(self, batch: list[Complete], settings: Settings) -> None:
        """Take complete uploads: durable in the agent's hands, then accepted in one commit, then where they belong.

        Every step is one for all of them, so that what has to reach the disk does so once.
        """
        batch = self._each(batch, self._claim)
        batch = self._together(batch, lambda: self._sync("new"))
        batch = self._each(batch, self._make_way)
        batch = self._together(batch, lambda: self._sync("active"))
        batch = self._each(batch, functools.partial(self._bring, settings))
        batch = self._together(batch, lambda: secure(self._spool, [one.custody for one in batch if one.custody]))
        batch = self._each(batch, functools.partial(self._prepare, settings))
        self._finish(self._together(batch, lambda: self._accept(batch)))

    def _finish(self, batch: list[Complete]) -> None:
        """Put accepted jobs where they belong. From here on nothing goes back: what fails is tried again."""
        batch = self._each(batch, self._place)
        batch = self._together(batch, lambda: self._sync_places({one.job.state.folder for one in batch}))
        batch = self._each(batch, self._set_aside)
        batch = self._together(batch, lambda: self._sync("new"))
        batch = self._each(batch, self._remove_rest)
        batch = self._each(batch, self._report_ended)
        batch = self._together(batch, lambda: self._admission.settle([one.job.job_id for one in batch]))
        for one in batch:
            job = one.job
            self._tally.took(job.state, job.admitted.standing.reason, job.recipients)
            _tell(job, one.rule)
        self._enlisted(batch)
        for one in batch:
            # It leads back to the upload: what is known of a hundred thousand files would wait for the next search for circles.
            one.upload.finish = None

    def _each(self, batch: list[Complete], step: Callable[[Complete], None]) -> list[Complete]:
        """The step for each by itself; returns those with which it went well."""
        good = []
        for one in batch:
            with self.telling(one.upload), self._giving_back([one]):
                step(one)
                good.append(one)
        return good

    def _together(self, batch: list[Complete], step: Callable[[], None]) -> list[Complete]:
        """A step for all at once: it goes well with all of them or with none."""
        if not batch:
            return []
        try:
            with self._giving_back(batch):
                step()
        except Exception:  # told of each upload
            for one in batch:
                with self.telling(one.upload):
                    raise
            return []
        return batch

    @contextlib.contextmanager
    def _giving_back(self, batch: list[Complete]) -> Iterator[None]:
        """Until it is accepted, an upload goes back to new/ if something goes wrong."""
        try:
            yield
        except DatabaseError:
            raise  # the agent is about to end, and the next one undoes what it began
        except Exception:
            for one in batch:
                if one.accepted is not None or not one.name:
                    continue
                if one.prepared is not None:
                    self._acceptance.discard(one.prepared.job_id)
                # Where even that fails, it is tried again: nobody else looks at a claimed upload before the next start.
                one.upload.finish = functools.partial(self._return, one)
                with contextlib.suppress(OSError):
                    one.upload.finish()
            raise

    def _return(self, one: Complete) -> None:
        if self._spool.files.stat(self._spool.fd("active"), (TAKE + one.name, CANCEL)) is not None:
            self._cancelled(one)  # its own folder may be closed to the agent
        back = give_back(self._spool, one.name, copied=not moves(one.seen.entries.values(), one.seen.owner))
        one.upload.finish = None
        if back is None:
            log("upload.problem", upload=printable(one.upload.name), problem=REMOVED)
        elif back != one.upload.name:
            log("upload.problem", upload=printable(one.upload.name), problem=f"was put back as {printable(back)}")

    def _sync(self, folder: str) -> None:
        self._spool.files.sync(self._spool.fd(folder))

    def _sync_places(self, folders: set[str]) -> None:
        for folder in folders - {"active"}:
            self._sync(folder)
        self._sync("active")

    @contextlib.contextmanager
    def telling(self, upload: Upload) -> Iterator[None]:
        """Tell what goes wrong with the upload, and look at it again later."""
        try:
            yield
        except DatabaseError:
            upload.look_at = float("inf")  # the agent is about to end
        except ChangedError as error:
            upload.tell(str(error))
            upload.look_at = self._monotonic() + 1.0
        except NotRegularError as error:
            upload.tell(f"it changed while it was looked at: where a file was is {error}; a job has plain files only")
            upload.look_at = self._monotonic() + 1.0
        except OSError as error:
            hint = "; copy with `rsync --chmod=D2770,F0660`" if isinstance(error, PermissionError) else ""
            upload.tell(f"cannot be taken: {error.strerror or error}{hint}")
            upload.look_at = self._monotonic() + _AFTER_ERROR
        except Exception as error:  # noqa: BLE001 - one upload's surprise must not stop the others
            log("agent.task_failed", where=f"intake of {printable(upload.name)}", error=repr(error))
            upload.tell(f"internal error: {error!r}")
            upload.look_at = self._monotonic() + _AFTER_ERROR
        else:
            return
        self._room.release(upload.folder)
        upload.busy = False

    # --- the steps ----------------------------------------------------------------------------------------------------

    def _claim(self, one: Complete) -> None:
        one.name = claim(self._spool, one.upload.name)
        one.upload.waits_for = TAKING

    def _make_way(self, one: Complete) -> None:
        entries = one.seen.entries.values()
        make_way(self._spool, one.name, (entry for entry in entries if entry.name not in one.seen.left))

    def _bring(self, settings: Settings, one: Complete) -> None:
        # Of one that is too large to be looked at nothing is taken; it gets its report.
        if not one.seen.entries:
            return
        seen, time_limit = one.seen, one.upload.time_limit
        try:
            with time_limit.within(settings.policy.max_time):
                one.custody = take(
                    self._spool, one.name, seen.entries.values(), seen.owner, seen.unread, time_limit, left=seen.left
                )
        except OvertimeError as error:
            one.fail(str(error))
            leave(self._spool, one.name)
        finally:
            self._room.release(seen.folder)

    def _prepare(self, settings: Settings, one: Complete) -> None:
        with one.upload.time_limit.within(settings.policy.max_time):
            self._prepare_within(settings, one)

    def _prepare_within(self, settings: Settings, one: Complete) -> None:
        taken = Taken({}, os.urandom(32))
        if one.custody is not None:
            try:
                taken = digest(self._spool, one.custody, one.upload.time_limit)
            except OvertimeError as error:
                one.fail(str(error))
        if one.rule is Rule.SEALED and not one.errors:
            for name, (_, expected) in one.upload.hashes.items():
                if name in taken.hashes and taken.hashes[name].hex() != expected:
                    raise ChangedError(f"{printable(name)} changed while the upload was being taken")
        with self._spool.job("active", TAKE + one.name) as root:
            one.prepared = self._acceptance.prepare(
                plain_name(one.name), root, one.seen, taken, one.rule, one.errors, settings, one.upload.time_limit
            )

    def _accept(self, batch: list[Complete]) -> None:
        accepted = self._acceptance.accept([one.prepared for one in batch if one.prepared is not None])
        for one, job in zip(batch, accepted, strict=True):
            one.accepted = job
            one.upload.finish = functools.partial(self._finish, [one])

    def _place(self, one: Complete) -> None:
        failpoint("after-accept")
        spool = self._spool
        if spool.files.stat(spool.fd("active"), (TAKE + one.name,)) is not None:
            spool.files.rename(spool.fd("active"), TAKE + one.name, spool.fd(one.job.state.folder), one.job.name)

    def _set_aside(self, one: Complete) -> None:
        one.rest = set_aside(self._spool, one.name, one.job.name) or one.rest
        if one.rest is not None and not one.job.state.final:
            # Nobody sends before this: the job becomes known to those who do when all is done here.
            hand_over(self._spool, one.rest, (one.job.state.folder, one.job.name), one.seen.entries)

    def _remove_rest(self, one: Complete) -> None:
        try:
            if one.rest is not None:
                remove_rest(self._spool, one.rest)
        except OSError as error:
            # Another user's folder that the agent may not empty: it was copied, and is never looked at again.
            problem = f"was taken; it cannot be removed: {error.strerror}"
            log("upload.problem", upload=printable(one.upload.name), problem=problem)

    def _report_ended(self, one: Complete) -> None:
        """A job that has ended is told of by nobody else; one with bad recipients tells of them before it sends."""
        if one.job.failed or one.job.state.final:
            self._report(one.job.job_id)


def _tell(accepted: Accepted, rule: Rule) -> None:
    if accepted.state is JobState.REJECTED:
        problems = len(accepted.admitted.errors)
        log("job.rejected", job=accepted.name, reason=accepted.admitted.standing.reason, problems=problems)
    elif accepted.state is JobState.CANCELLED:
        log("job.cancelled", job=accepted.name, reason="CANCEL was in the upload")
    else:
        log("job.accepted", job=accepted.name, recipients=accepted.recipients, rule=rule.value)
