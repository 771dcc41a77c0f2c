"""The control files in jobs that are not done: CANCEL, HOLD, RETRY, and folders that somebody removed.

Looks at every live job's folder once a second, and at once when told that something stirred there. One look costs one
stat as long as nothing in the folder changed.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from spoold.core.completeness import CANCEL, HOLD, RETRY
from spoold.storage.files import Kind
from spoold.storage.spooldir import FOLDERS, Spool

#: In the file RETRY this word asks for the *uncertain* recipients too.
UNCERTAIN = "uncertain"
_KNOWN = FOLDERS[1:]
#: A folder that changed in the last moment may change again without a new mtime, which has the kernel's coarse clock.
_FRESH_NS = 100_000_000


@dataclass(frozen=True, slots=True)
class Signal:
    """What the control files of one job say."""

    job_id: int
    cancel: bool
    hold: bool
    retry: bool
    retry_uncertain: bool
    missing: bool = False
    """The job's folder is not there any more."""


class Control:
    """See the module. For one thread."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._seen: dict[int, tuple[int, int, Signal]] = {}
        self._missing: set[int] = set()

    def look(self, jobs: Iterable[tuple[int, str, str]]) -> list[Signal]:
        """The signals of `jobs`, each (id, name, the folder where it should be)."""
        signals = []
        live = set()
        for job_id, name, folder in jobs:
            live.add(job_id)
            signal = self._look(job_id, name, folder)
            if signal is not None:
                signals.append(signal)
        for job_id in self._seen.keys() - live:
            del self._seen[job_id]
        self._missing &= live
        return signals

    def _look(self, job_id: int, name: str, folder: str) -> Signal | None:
        files = self._spool.files
        for place in (folder, *_KNOWN):
            entry = files.stat(self._spool.fd(place), (name,))
            if entry is not None:
                break
        else:
            # It may be on its way from one folder to the other just now: believe it when it is missing twice.
            if job_id in self._missing:
                return Signal(job_id, False, False, False, False, missing=True)
            self._missing.add(job_id)
            return None
        self._missing.discard(job_id)
        known = self._seen.get(job_id)
        if known is not None and known[:2] == (entry.inode, entry.mtime_ns):
            return known[2]
        try:
            with self._spool.job(place, name) as root:
                present = {control for control in (CANCEL, HOLD, RETRY) if files.stat(root, (control,)) is not None}
                uncertain = RETRY in present and self._asks_uncertain(root)
        except OSError:
            return None
        signal = Signal(job_id, CANCEL in present, HOLD in present, RETRY in present, uncertain)
        if time.time_ns() - entry.mtime_ns > _FRESH_NS:
            self._seen[job_id] = (entry.inode, entry.mtime_ns, signal)
        else:
            self._seen.pop(job_id, None)
        return signal

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
