"""What people do in the folders of jobs that are not done: CANCEL, HOLD, RETRY, an edited job.yaml, a folder removed.

Looks at every live job's folder about once a second; one look costs one stat, and every other time a second one for job.yaml, as long
as nothing in the folder changed.
"""

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from spoold.core.document.reader import READ_BYTES
from spoold.core.folder import CANCEL, HOLD, MANIFEST, RETRY
from spoold.storage.entry import Kind, NotRegularError
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
            signal = self._look(job_id, name, folder, seen, now, manifests=manifests)
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
        try:
            signal, manifest = self._read(job_id, name, seen)
        except OSError:
            return seen.asked
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
            present = {control for control in (CANCEL, HOLD, RETRY) if files.stat(root, (control,)) is not None}
            uncertain = RETRY in present and self._asks_uncertain(root)
            entry = files.stat(root, (MANIFEST,))
            identity = None if entry is None else (entry.inode, entry.size, entry.mtime_ns)
            manifest = None
            if identity != seen.manifest and entry is not None and entry.kind is Kind.FILE:
                try:
                    manifest = files.read_small(root, (MANIFEST,), READ_BYTES)
                except (NotRegularError, FileNotFoundError):
                    identity = None
        return Signal(
            job_id, CANCEL in present, HOLD in present, RETRY in present, uncertain, manifest=manifest
        ), identity

    def _asks_uncertain(self, root: int) -> bool:
        entry = self._spool.files.stat(root, (RETRY,))
        if entry is None or entry.kind is not Kind.FILE:
            return False
        return UNCERTAIN.encode() in self._spool.files.read_small(root, (RETRY,), 100)

    def remove_retry(self, job_id: int, name: str) -> None:
        """RETRY was obeyed."""
        self._seen.pop(job_id, None)
        for place in _KNOWN:
            if self._spool.files.stat(self._spool.fd(place), (name, RETRY)) is not None:
                with self._spool.job(place, name) as root:
                    self._spool.files.remove_tree(root, RETRY)
                return
