"""`spoold dsn`: RFC 3464 delivery-status files, one for each recipient that failed, expired or is delayed.

For programs that know how to read bounces. They are written into `JOB/report/dsn/`, which is replaced as a whole; the
agent neither writes nor reads them.
"""

import argparse
import secrets
import socket
from collections.abc import Iterator

from spoold.cli.command import configuration, open_spool
from spoold.core.folder import REPORT
from spoold.core.manifest import check_path
from spoold.core.message.wire import MessageError, prepare
from spoold.core.problem import printable
from spoold.core.state import RecipientState
from spoold.core.terms import terms_of
from spoold.job import JobError
from spoold.report.dsn import Origin, delivery_status
from spoold.storage.archive import Archive, Undelivered
from spoold.storage.entry import NotRegularError
from spoold.storage.manifest import manifest_of
from spoold.storage.record import JobRow
from spoold.storage.spooldir import FOLDERS, Spool, valid_name

FOLDER = "dsn"
_MAKING = ".dsn-"
_STATES = (RecipientState.FAILED, RecipientState.EXPIRED, RecipientState.DEFERRED)
#: A job may change its folder while it is looked for.
_LOOKS = 3


def run(options: argparse.Namespace) -> int:
    """Says how many files there are; 1 if the job is not known, or a report about it would be a bounce of a bounce."""
    name = options.job.rstrip("/").rpartition("/")[2]
    found = configuration(options)
    spool = open_spool(found.spool)
    defaults = found.agent.defaults
    with Archive(spool) as archive:
        job = archive.job(name) if valid_name(name) else None
        if job is None:
            raise JobError(f"{printable(name)}: no such job is known here")
        if not job.total:
            raise JobError(f"{name}: has no recipients ({job.state.value}); its report says why")
        manifest = manifest_of(job, defaults.zone)
        if not manifest.sender:
            raise JobError(
                f"{name}: has the null sender: what it sends are reports itself, and nobody gets one of them"
            )
        terms = terms_of(manifest.timing, defaults, job.accepted_at)
        origin = Origin(name, manifest.sender, socket.gethostname(), job.accepted_at, terms.zone)
        folder, root = _open(spool, name)
        with spool.files.closing(root):
            headers = _Headers(spool, archive, job, root)
            files = (
                (
                    f"{recipient.number:07}.eml",
                    delivery_status(
                        origin,
                        recipient,
                        headers.of(recipient.message),
                        _until(recipient, terms.retry.lifetime, terms.expires_at),
                    ),
                )
                for recipient in archive.undelivered(job.id, _STATES)
            )
            count = _write(spool, root, files)
    print(f"{name}: {count} delivery-status file(s) in {folder}/{name}/{REPORT}/{FOLDER}/")
    return 0


def _until(recipient: Undelivered, lifetime: float, expires_at: float | None) -> float | None:
    """When a deferred recipient is given up, POSIX seconds."""
    ends = [] if recipient.first_attempt_at is None else [recipient.first_attempt_at + lifetime]
    if expires_at is not None:
        ends.append(expires_at)
    return min(ends, default=None)


def _open(spool: Spool, name: str) -> tuple[str, int]:
    """The folder where the job stands, and its descriptor, which stays with it wherever it moves."""
    for _ in range(_LOOKS):
        folder = spool.find(name, FOLDERS[1:])
        if folder is None:
            continue
        try:
            return folder, spool.files.open_directory(spool.fd(folder), name)
        except FileNotFoundError:
            continue
    raise JobError(f"{name}: its folder is missing in {', '.join(FOLDERS[1:])}")


def _write(spool: Spool, root: int, contents: Iterator[tuple[str, bytes]]) -> int:
    """Write the files and let them take the place of those of another time; returns how many."""
    files = spool.files
    making = _MAKING + secrets.token_hex(4)
    count = 0
    with files.closing(files.open_directory(root, REPORT)) as report:
        for name in files.names(report):
            if name.startswith(_MAKING):
                files.remove_tree(report, name)
        files.make_directory(report, making)
        try:
            with files.closing(files.open_directory(report, making)) as folder:
                for name, content in contents:
                    with files.closing(files.create(folder, name)) as fd:
                        files.write(fd, content)
                    count += 1
            if files.stat(report, (FOLDER,)) is not None:
                files.remove_tree(report, FOLDER)
            files.rename(report, making, report, FOLDER)
        except BaseException:
            files.remove_tree(report, making)
            raise
    return count


class _Headers:
    """The header blocks of a job's messages in the form in which they are sent; the last one is kept."""

    def __init__(self, spool: Spool, archive: Archive, job: JobRow, root: int) -> None:
        self._spool = spool
        self._archive = archive
        self._job = job
        self._root = root
        self._last: tuple[str | None, bytes | None] = None, None

    def of(self, path: str | None) -> bytes | None:
        """None where the message is missing or could not be sent."""
        if path != self._last[0]:
            self._last = path, None if path is None else self._read(path)
        return self._last[1]

    def _read(self, path: str) -> bytes | None:
        facts = self._archive.facts(self._job.id, path)
        if facts is None:
            return None
        try:
            head = next(prepare(self._spool.files.chunks(self._root, check_path(path)), facts.added), b"")
        except (OSError, NotRegularError, MessageError):
            return None
        header, _, _ = head.partition(b"\r\n\r\n")
        return header + b"\r\n"
