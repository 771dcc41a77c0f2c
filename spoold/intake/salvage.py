"""At start: what a killed process had begun with uploads is finished or undone, each by itself.

Under the hidden names of uploads anything may stand that another user put there. It is put back into new/, where it is
looked at like any other upload, or set aside; the next one goes on.
"""

import functools
from collections.abc import Callable

from spoold.core.problem import printable
from spoold.core.state import JobState
from spoold.event import log
from spoold.intake.batch import REMOVED
from spoold.intake.claim import give_back
from spoold.intake.claim import set_aside as put_away
from spoold.storage.admission import Admission
from spoold.storage.entry import Kind, NotRegularError
from spoold.storage.obstacle import rename_over, set_aside, text_of, tolerating
from spoold.storage.spooldir import CLAIM, FOLDERS, TAKE, Spool, plain_name


class Salvage:
    """See the module. `report` writes that of a job, or raises OSError."""

    def __init__(self, spool: Spool, admission: Admission, report: Callable[[int], None]) -> None:
        self._spool = spool
        self._admission = admission
        self._report = report

    def run(self) -> list[int]:
        """Before anything else uses the spool. Returns the jobs whose reports could not be written for now; raises OSError only
        for the machine's."""
        spool = self._spool
        for name in sorted({*spool.hidden("new", CLAIM), *spool.hidden("active", TAKE)}):
            with tolerating(functools.partial(self._give_up, name)):
                self._restore(name)
        return self._tell()

    def _give_up(self, name: str, error: Exception) -> None:
        """The parts of an upload do not fit together. What only the agent can reach is put back by itself if it can be."""
        files, new, active = self._spool.files, self._spool.fd("new"), self._spool.fd("active")
        set_aside(files, new, CLAIM + name, error)
        if files.stat(new, (CLAIM + name,)) is not None:
            log("spool.failed", where=f"new/{printable(CLAIM + name)}", error=text_of(error))
            return
        with tolerating(functools.partial(set_aside, files, active, TAKE + name)):
            self._restore(name)

    def _restore(self, name: str) -> None:
        spool = self._spool
        new, active = spool.fd("new"), spool.fd("active")
        claimed = spool.files.stat(new, (CLAIM + name,))
        if claimed is not None and claimed.kind is not Kind.DIRECTORY:
            raise NotRegularError(claimed.kind)  # no upload was ever claimed as that
        taken = spool.files.stat(active, (TAKE + name,))
        job = None if claimed is None else self._admission.claimed_by(plain_name(name), claimed.inode)
        its_claim = job is not None
        if job is None and taken is not None:
            job = self._unplaced(name)
        if job is None:
            if give_back(spool, name) is None:
                log("upload.problem", upload=printable(plain_name(name)), problem=REMOVED)
            return
        if taken is not None:
            folder = job[1].folder
            rename_over(spool.files, active, TAKE + name, spool.fd(folder), job[0])
            spool.sync_move("active", folder)
        if its_claim:
            put_away(spool, name, job[0])
            spool.files.sync(new)
        elif claimed is not None:
            give_back(spool, name)

    def _unplaced(self, name: str) -> tuple[str, JobState] | None:
        """The accepted job of this upload whose folder stands nowhere: somebody removed what was left of the upload."""
        job = self._admission.claimed_by(plain_name(name), None)
        return job if job is not None and self._spool.find(job[0], FOLDERS[1:]) is None else None

    def _tell(self) -> list[int]:
        """Write the reports that nobody else will; then every upload is settled whose report is written."""
        failed = []
        for job_id in self._admission.unsettled():
            # A job that has ended is looked at by nobody else; one with bad recipients tells of them before it sends.
            try:
                self._report(job_id)
            except OSError:
                failed.append(job_id)  # told of
        self._admission.settle(but=failed)
        return failed
