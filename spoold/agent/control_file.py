"""What people do in the folders of jobs that are not done: CANCEL, HOLD, RETRY, an edited job.yaml, a folder removed.

Looks at every live job's folder about once a second; one look costs one stat, and every other time a second one for job.yaml, as long
as nothing in the folder changed.
"""

import contextlib
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from spoold.core.document.reader import READ_BYTES
from spoold.core.folder import CANCEL, HOLD, MANIFEST, RETRY
from spoold.storage.entry import Kind, NotRegularError
from spoold.storage.obstacle import clear, tolerating
from spoold.storage.spooldir import FOLDERS, Spool

#: In the file RETRY this word asks for the *uncertain* recipients too.
UNCERTAIN = "uncertain"
_KNOWN = FOLDERS[1:]
#: A change within this many seconds before a look may have more of the same time behind it; it is looked at again.
_RECENT = 2.0


@dataclass(frozen=True, slots=True)
class Signal:
    """What one job's folder says. `manifest` is job.yaml's content when it changed since the last look, or at the first."""

    job_id: int
    cancel: bool = False
    hold: bool = False
    retry: bool = False
    retry_uncertain: bool = False
    missing: bool = False
    """The job's folder is not there any more."""
    manifest: bytes | None = None


@dataclass(slots=True)
class _Seen:
    place: str
    folder: tuple[int, int] | None = None
    manifest: tuple[int, int, int] | None = None
    asked: Signal | None = None
    obeyed: int | None = None
    """The inode of a RETRY that was obeyed and cannot be removed."""
    missing: bool = False


class Control:
    """See the module. For one thread."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._seen: dict[int, _Seen] = {}

    def look(self, jobs: Iterable[tuple[int, str, str]], now: float, *, manifests: bool = True) -> list[Signal]:
        """The signals of `jobs`, each (id, name, the folder where it should be): of those that changed or ask for something.

        What is asked is told of again at each look until the folder says otherwise. `now` is POSIX seconds. Whether job.yaml
        was edited in its place is looked at only with `manifests`.
        """
        signals = []
        for job_id, name, folder in jobs:
            seen = self._seen.setdefault(job_id, _Seen(folder))
            try:
                signal = self._look(job_id, name, folder, seen, now, manifests=manifests)
            except OSError:
                signal = seen.asked
            if signal is not None:
                signals.append(signal)
        return signals

    def forget(self, live: Collection[int]) -> None:
        """Only the jobs in `live` will be looked at again."""
        for job_id in self._seen.keys() - live:
            del self._seen[job_id]

    def _look(self, job_id: int, name: str, folder: str, seen: _Seen, now: float, *, manifests: bool) -> Signal | None:
        status = self._stat(seen, name, folder)
        if status is None:
            # It may be on its way from one folder to the other just now: believe it when it is missing twice.
            missing, seen.missing = seen.missing, True
            return Signal(job_id, missing=True) if missing else None
        seen.missing = False
        identity = (status.st_ino, status.st_mtime_ns)
        if identity == seen.folder and (not manifests or self._manifest_identity(seen, name) == seen.manifest):
            return seen.asked
        signal, manifest = self._read(job_id, name, seen)
        if now - status.st_mtime > _RECENT:
            seen.folder = identity
        seen.manifest = manifest
        # The content of job.yaml, and that nothing is asked, is told once; the control files as long as they are there.
        asked = signal.cancel or signal.hold or signal.retry
        seen.asked = replace(signal, manifest=None) if asked else None
        return signal

    def _stat(self, seen: _Seen, name: str, folder: str) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=self._spool.fd(seen.place), follow_symlinks=False)
        except FileNotFoundError:
            pass
        for place in (folder, *_KNOWN):
            try:
                status = os.stat(name, dir_fd=self._spool.fd(place), follow_symlinks=False)
            except FileNotFoundError:
                continue
            seen.place = place
            return status
        return None

    def _manifest_identity(self, seen: _Seen, name: str) -> tuple[int, int, int] | None:
        try:
            status = os.stat(f"{name}/{MANIFEST}", dir_fd=self._spool.fd(seen.place), follow_symlinks=False)
        except OSError:
            return None
        return (status.st_ino, status.st_size, status.st_mtime_ns)

    def _read(self, job_id: int, name: str, seen: _Seen) -> tuple[Signal, tuple[int, int, int] | None]:
        files = self._spool.files
        with self._spool.job(seen.place, name) as root:
            present = {control for control in (CANCEL, HOLD) if self._stands(root, control)}
            retry = self._retry(root)
            asks = retry is not None and retry != seen.obeyed
            uncertain = asks and self._asks_uncertain(root)
            entry = files.stat(root, (MANIFEST,))
            identity = None if entry is None else (entry.inode, entry.size, entry.mtime_ns)
            manifest = None
            if identity != seen.manifest and entry is not None and entry.kind is Kind.FILE:
                try:
                    manifest = files.read_small(root, (MANIFEST,), READ_BYTES)
                except PermissionError:
                    pass  # somebody's who lets nobody read it: as long as it stays so, the old one counts
                except (NotRegularError, FileNotFoundError):
                    identity = None
        return Signal(job_id, CANCEL in present, HOLD in present, asks, uncertain, manifest=manifest), identity

    def _stands(self, root: int, control: str) -> bool:
        try:
            return self._spool.files.stat(root, (control,)) is not None
        except PermissionError:
            return True  # a mount of somebody who lets nobody look at it

    def _retry(self, root: int) -> int | None:
        """The inode of RETRY, if there is one."""
        try:
            entry = self._spool.files.stat(root, (RETRY,))
        except PermissionError:
            return None  # as above; this one could not be removed either
        return None if entry is None else entry.inode

    def _asks_uncertain(self, root: int) -> bool:
        try:
            return UNCERTAIN.encode() in self._spool.files.read_small(root, (RETRY,), 100)
        except (OSError, NotRegularError):
            return False

    def remove_retry(self, job_id: int, name: str) -> None:
        """RETRY was obeyed."""
        seen = self._seen.pop(job_id, None)
        for place in _KNOWN:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError), self._spool.job(place, name) as root:
                if self._retry(root) is None:
                    continue
                with tolerating(lambda _: None):
                    clear(self._spool.files, root, RETRY)
                self._remember(job_id, seen, root)
                return

    def _remember(self, job_id: int, seen: _Seen | None, root: int) -> None:
        """Keep in mind a RETRY that is still there: nobody obeys it again."""
        left = self._retry(root)
        if left is not None and seen is not None:
            self._seen[job_id] = _Seen(seen.place, obeyed=left)
