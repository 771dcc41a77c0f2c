"""Notification of changes in the spool, as hints: what it misses, the regular look finds.

watchdog calls from a thread of its own; a handler that raises would end that thread without a word, so this one does
next to nothing.
"""

import contextlib
import os
from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.inotify import InotifyObserver

from spoold.core.completeness import REPORT
from spoold.storage.spooldir import Spool

_EVENTS: list[type[FileSystemEvent]] = [
    DirCreatedEvent, DirMovedEvent, FileClosedEvent, FileCreatedEvent, FileDeletedEvent, FileMovedEvent,
]  # fmt: skip


class Watcher(FileSystemEventHandler):
    """Tells `stirred(folder, job, renamed_in)` on the event loop; a burst costs one call into the loop."""

    def __init__(self, spool: Spool, loop: AbstractEventLoop, stirred: Callable[[str, str, bool], None]) -> None:
        self._root = os.fsdecode(spool.path.resolve())
        self._loop = loop
        self._stirred = stirred
        self._pending: deque[tuple[str, str, bool]] = deque()
        self._posted = False
        # "Full events" tell a folder that was renamed in from elsewhere (a move without a source) from one that was made.
        self._observer = InotifyObserver(generate_full_events=True)

    def start(self) -> None:
        """Watch new/, active/ and deferred/. Raises OSError where the system's limit of watches is reached."""
        for folder in ("new", "active", "deferred"):
            self._observer.schedule(self, os.path.join(self._root, folder), recursive=True, event_filter=_EVENTS)
        self._observer.start()

    def stop(self) -> None:
        if self._observer.is_alive():
            self._observer.stop()
            self._observer.join()

    def dispatch(self, event: FileSystemEvent) -> None:
        for path in {event.src_path, event.dest_path}:
            place = self._place(path) if path else None
            if place is not None and place[2] != REPORT:
                renamed_in = isinstance(event, DirMovedEvent) and not event.src_path and place[2] == ""
                self._pending.append((place[0], place[1], renamed_in))
        if self._pending and not self._posted:
            self._posted = True
            with contextlib.suppress(RuntimeError):  # the loop has ended; so will this thread
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._posted = False
        while self._pending:
            self._stirred(*self._pending.popleft())

    def _place(self, path: bytes | str) -> tuple[str, str, str] | None:
        """(folder, job, first name inside the job), None for what is none of a job's."""
        text = os.fsdecode(path)
        if not text.startswith(self._root + "/"):
            return None
        parts = text[len(self._root) + 1 :].split("/", 3)
        if len(parts) < 2 or parts[1].startswith("."):
            return None
        return parts[0], parts[1], parts[2] if len(parts) > 2 else ""
