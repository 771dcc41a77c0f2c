"""Puts reports where they belong: into report/, onto the disk, and with their jobs into the right folders.

Others can write into a job's folder, and so take the place of what is the agent's there. What stands in the way is set
aside; what still fails is that one job's trouble.
"""

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass

from spoold.core.folder import REPORT
from spoold.failpoint import failpoint
from spoold.report.paper import Paper, telling
from spoold.report.table import ATTEMPTS
from spoold.storage.entry import NotRegularError, is_machines
from spoold.storage.obstacle import rename_over, set_aside
from spoold.storage.record import JobRow
from spoold.storage.spooldir import Spool

#: More jobs than this are synced with their whole file system.
_MANY = 10


@dataclass(frozen=True, slots=True)
class Written:
    """A job whose report was written into the folder `here`."""

    paper: Paper
    job: JobRow
    here: str
    staged: tuple[str, ...]
    """The files of a job that has ended: they wait for the disk."""


class Binder:
    """See the module. For the projector's threads."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def write(self, job: JobRow, here: str, write: Callable[[int], None]) -> None:
        """Let `write` write into the job's report/, by its descriptor. Raises OSError and NotRegularError.

        A job that has ended gets a new folder for the next try where it is not the machine's fault: nobody needs the old one.
        """
        try:
            with self._spool.job(here, job.name) as root:
                self._in_report(root, write)
        except (OSError, NotRegularError) as error:
            if job.state.final and not (isinstance(error, OSError) and is_machines(error)):
                set_aside(self._spool.files, self._spool.fd(here), job.name, error)
            raise

    def _in_report(self, root: int, write: Callable[[int], None]) -> None:
        """Let `write` write into a job's report/. Where that cannot be written to, and it is not the machine's fault, somebody
        has put it there: it is set aside for a new one."""
        files = self._spool.files
        for last in (False, True):
            try:
                with contextlib.suppress(FileExistsError):
                    files.make_directory(root, REPORT)
                with files.closing(files.open_directory(root, REPORT)) as report:
                    write(report)
            except (OSError, NotRegularError) as error:
                if last or (isinstance(error, OSError) and is_machines(error)):
                    raise
                if set_aside(files, root, REPORT, error) is None:
                    raise
            else:
                return

    def secure(self, written: list[Written]) -> list[Written]:
        """Publish the reports of jobs that have ended, durably: nobody writes them again. Returns those that went well."""
        files = self._spool.files
        ended = [one for one in written if one.job.state.final]
        many = len(ended) > _MANY
        if many:
            ended = self._together(ended, lambda: files.sync_filesystem(self._spool.fd("active")))
        good = []
        for one in ended:
            with telling(one.paper, one.job):
                self._publish(one, sync=not many)
                good.append(one)
        if many:
            good = self._together(good, lambda: files.sync_filesystem(self._spool.fd("active")))
        return [one for one in written if not one.job.state.final] + good

    def _publish(self, one: Written, *, sync: bool) -> None:
        files = self._spool.files
        with self._spool.job(one.here, one.job.name) as root, files.directory(root, (REPORT,)) as report:
            if sync:
                files.sync_file(report, (ATTEMPTS,))
                for name in one.staged:
                    files.sync_staged(report, name)
            for name in one.staged:
                files.publish(report, name)
            if sync:
                files.sync(report)
                files.sync(root)

    def move(self, written: list[Written]) -> list[Written]:
        """Put them into the folders where they belong. Returns those that went well."""
        files, good = self._spool.files, []
        ways: dict[tuple[str, str], list[Written]] = {}
        for one in written:
            here, there = one.here, one.job.state.folder
            if here == there:
                good.append(one)
                continue
            with telling(one.paper, one.job):
                failpoint("before-move")
                rename_over(files, self._spool.fd(here), one.job.name, self._spool.fd(there), one.job.name)
                failpoint("after-move")
                ways.setdefault((here, there), []).append(one)
        for way, moved in ways.items():
            good += self._together(moved, functools.partial(self._spool.sync_move, *way))
        return good

    def _together(self, written: list[Written], step: Callable[[], None]) -> list[Written]:
        """A step for all at once, if there are any: it goes well with all of them or with none."""
        try:
            if written:
                step()
        except OSError:  # told of each job
            for one in written:
                with telling(one.paper, one.job):
                    raise
            return []
        return written
