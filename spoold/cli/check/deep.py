"""Compares what the database says with what stands in the spool, and puts the projections right: never the database.

With an agent running, what differs is looked at again before it is believed: a job may be on its way to another folder,
and a report a moment behind. Of a job that is being sent only that is told which is never right, however late it is.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from spoold.core.document.reader import DocumentError
from spoold.core.folder import REPORT
from spoold.core.problem import printable
from spoold.report.proof import NAMES, Proof, Subject
from spoold.report.table import ATTEMPTS, attempts_jsonl
from spoold.storage.entry import Kind, NotRegularError
from spoold.storage.ledger import Ledger
from spoold.storage.manifest import manifest_of
from spoold.storage.record import JobRow
from spoold.storage.snapshot import Snapshot
from spoold.storage.spooldir import CLAIM, FOLDERS, TAKE, TAKEN, Spool
from spoold.storage.store import Store

_PLACES = FOLDERS[1:]
_LOOKS = 5
_PAUSE = 1.0


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as the database says. `remedy` is what a person can do; `repairable` what `repair` can.

    `mild` is what the agent itself puts right, or what a person may have wanted.
    """

    job: str
    text: str
    remedy: str
    repairable: bool = False
    mild: bool = False


class Inspection:
    """See the module. `zone` is the agent's; `running`: an agent has the spool. For one thread."""

    def __init__(
        self,
        spool: Spool,
        snapshot: Snapshot,
        *,
        zone: ZoneInfo,
        running: bool,
        pause: Callable[[], None] = lambda: time.sleep(_PAUSE),
    ) -> None:
        self._spool = spool
        self._snapshot = snapshot
        self._store = Store(snapshot)
        self._ledger = Ledger(snapshot)
        self._zone = zone
        self._running = running
        self._pause = pause

    def differences(self) -> Iterator[Difference]:
        """Everything that differs: job by job, then what belongs to no job."""
        for job_id, _, _ in list(self._store.places()):
            yield from self._settled(lambda job_id=job_id: self._job(job_id))  # type: ignore[misc]
        yield from self._settled(self._strangers)

    def _settled(self, look: Callable[[], list[Difference]]) -> list[Difference]:
        found = look()
        for _ in range(_LOOKS - 1 if self._running else 0):
            if not found:
                break
            self._pause()
            found = look()
        return found

    # --- one job --------------------------------------------------------------------------------------------------

    def _job(self, job_id: int) -> list[Difference]:
        with self._snapshot.moment():
            job = self._store.job(job_id)
            if job is None:
                return []  # removed meanwhile
            here, *others = self._places(job.name) or (None,)
            if here is None:
                return [_missing(job)]
            if others:
                places = f"{here}/ and {'/ and '.join(others)}/"
                return [
                    Difference(
                        job.name,
                        f"stands in {places}",
                        f"move away the one that is not in {job.state.folder}/ or is older",
                    )
                ]
            found = []
            if here != job.state.folder:
                todo = "start the agent, or --repair"
                text = f"stands in {here}/, and is {job.state.value}: expected {job.state.folder}/"
                found.append(Difference(job.name, text, todo, repairable=True))
            found += self._report(job, here)
        return found + (self._messages(job, here) if not job.state.final else [])

    def _places(self, name: str) -> list[str]:
        return [folder for folder in _PLACES if self._spool.files.stat(self._spool.fd(folder), (name,)) is not None]

    def _subject(self, job: JobRow) -> Subject:
        try:
            manifest = manifest_of(job, self._zone)
        except DocumentError:
            return Subject(job, "", "", self._zone)
        name = manifest.timing.timezone
        return Subject(
            job, printable(manifest.description, 500), manifest.sender, ZoneInfo(name) if name else self._zone
        )

    def _report(self, job: JobRow, here: str) -> list[Difference]:
        files = self._spool.files
        todo = "--repair writes it anew" if job.state.final else "start the agent, or --repair: it is written anew"
        try:
            with self._spool.job(here, job.name) as root:
                try:
                    report = files.open_directory(root, REPORT)
                except OSError:
                    report = None
                try:
                    proof = Proof(files, self._ledger, self._subject(job), report)
                    look = proof.glaring if self._running and not job.state.final else proof.flaw
                    flaws = [flaw for name in NAMES if (flaw := look(name)) is not None]
                finally:
                    if report is not None:
                        os.close(report)
        except OSError as error:
            return [Difference(job.name, f"its folder cannot be opened: {error.strerror}", "check its owner and modes")]
        return [Difference(job.name, flaw, todo, repairable=True) for flaw in flaws]

    def _messages(self, job: JobRow, here: str) -> list[Difference]:
        """Of the messages that are still to be sent, those that no longer are what was taken."""
        found = []
        for path, sha256 in self._snapshot.unsent_messages(job.id):
            digest = hashlib.sha256()
            problem = None
            try:
                with self._spool.job(here, job.name) as root:
                    for chunk in self._spool.files.chunks(root, tuple(path.split("/")), known=True):
                        digest.update(chunk)
                if digest.digest() != sha256:
                    problem = "was changed after the job was taken"
            except NotRegularError as error:
                problem = f"has become {error}"
            except OSError as error:
                problem = f"cannot be read: {error.strerror}"
            if problem is not None:
                text = f"{printable(path)} {problem}, and is not sent"
                found.append(Difference(job.name, text, "put the original back; its recipients wait for it"))
        return found

    # --- what belongs to no job -----------------------------------------------------------------------------------

    def _strangers(self) -> list[Difference]:
        found = []
        listed = {folder: self._spool.jobs(folder) for folder in _PLACES}
        known = {name for _, name, _ in self._store.places()}
        for folder, names in listed.items():
            for name in names:
                if name not in known:
                    todo = "move it to new/ if it is to be sent, else remove it"
                    found.append(
                        Difference(printable(name), f"{folder}/{printable(name)} is no job of this database", todo)
                    )
        for folder, prefix in () if self._running else (("new", CLAIM), ("active", TAKE)):
            for name in self._spool.hidden(folder, prefix):
                text = f"{folder}/{printable(prefix + name)} is part of an upload that was being taken"
                found.append(Difference(printable(name), text, "start the agent: it takes it again", mild=True))
        for name in self._spool.hidden("new", TAKEN):
            text = f"new/{printable(TAKEN + name)} is what was left of an upload of another user"
            found.append(Difference(printable(name), text, "remove it, as that user or as root", mild=True))
        return found

    # --- repair -----------------------------------------------------------------------------------------------------

    def repair(self) -> list[str]:
        """Write every report that differs, and move every folder that stands in the wrong place; returns the jobs' names.

        Only while this process has the spool's lock. Raises OSError.
        """
        done = []
        for job_id, _, _ in list(self._store.places()):
            if any(difference.repairable for difference in self._job(job_id)):
                with self._snapshot.moment():
                    job = self._store.job(job_id)
                    if job is not None:
                        self._restore(job)
                        done.append(job.name)
        return done

    def _restore(self, job: JobRow) -> None:
        files, target = self._spool.files, job.state.folder
        places = self._places(job.name)
        here = places[0] if places else target
        if not places:
            files.make_directory(self._spool.fd(here), job.name)
        with self._spool.job(here, job.name) as root:
            there = files.stat(root, (REPORT,))
            if there is not None and there.kind is not Kind.DIRECTORY:
                files.remove_tree(root, REPORT)
            if there is None or there.kind is not Kind.DIRECTORY:
                files.make_directory(root, REPORT)
            with files.closing(files.open_directory(root, REPORT)) as report:
                proof = Proof(files, self._ledger, self._subject(job), report)
                for name in [name for name in NAMES if proof.flaw(name) is not None]:
                    entry = files.stat(report, (name,))
                    if entry is not None and entry.kind is Kind.DIRECTORY:
                        files.remove_tree(report, name)
                    if name != ATTEMPTS or self._is_continued(job):
                        files.replace(report, name, proof.expected(name), durable=True)
                    elif entry is not None:
                        # The agent that goes on writes it anew.
                        files.remove_tree(report, name)
        if here != target:
            self._spool.move(job.name, here, target)

    def _is_continued(self, job: JobRow) -> bool:
        """Whether attempts.jsonl as it is written now can be appended to where the agent would go on."""
        if job.state.final:
            return True
        lines = attempts_jsonl(self._ledger, job.id, 0, self._subject(job).zone, until=job.attempts_id)
        size = sum(len(some) for some, _ in lines)
        return size == job.attempts_bytes


def _missing(job: JobRow) -> Difference:
    if job.state.final:
        text = "its folder is missing from done/"
        return Difference(job.name, text, "--repair writes its report again", repairable=True, mild=True)
    return Difference(
        job.name, "its folder is missing", f"put it back into {job.state.folder}/, or the agent cancels the job"
    )
