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
from watchdog.observers import Observer

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
        self._observer = Observer()

    def start(self) -> None:
        """Watch tmp/, new/, active/ and deferred/. Raises OSError where the system's limit of watches is reached."""
        # tmp/ is watched so that a rename from there shows both of its ends.
        for folder, deep in (("tmp", False), ("new", True), ("active", True), ("deferred", True)):
            self._observer.schedule(self, os.path.join(self._root, folder), recursive=deep, event_filter=_EVENTS)
        self._observer.start()

    def stop(self) -> None:
        if self._observer.is_alive():
            self._observer.stop()
            self._observer.join()

    def dispatch(self, event: FileSystemEvent) -> None:
        source = self._place(event.src_path)
        target = self._place(event.dest_path) if event.dest_path else None
        renamed_in = (
            source is not None and target is not None and source[0] == "tmp" and target[0] == "new" and target[2] == ""
        )
        for place in {source, target}:
            if place is not None and place[0] != "tmp" and place[2] != REPORT:
                self._pending.append((place[0], place[1], renamed_in and place is target))
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
