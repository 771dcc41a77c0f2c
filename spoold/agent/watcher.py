"""Notification of changes in new/, as hints: what it misses, the regular look finds.

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

from spoold.agent.pickup import SUFFIX
from spoold.storage.spooldir import Spool

_EVENTS: list[type[FileSystemEvent]] = [
    DirCreatedEvent, DirMovedEvent, FileClosedEvent, FileCreatedEvent, FileDeletedEvent, FileMovedEvent,
]  # fmt: skip
_MOVED = (DirMovedEvent, FileMovedEvent)


class Watcher(FileSystemEventHandler):
    """Tells `stirred(upload, renamed_in)` on the event loop; a burst costs one call into the loop."""

    def __init__(self, spool: Spool, loop: AbstractEventLoop, stirred: Callable[[str, bool], None]) -> None:
        self._root = os.path.join(os.fsdecode(spool.path.resolve()), "new")
        self._loop = loop
        self._stirred = stirred
        self._pending: deque[tuple[str, bool]] = deque()
        self._posted = False
        # "Full events" tell a folder that was renamed in from elsewhere (a move without a source) from one that was made.
        self._observer = InotifyObserver(generate_full_events=True)

    def start(self) -> None:
        """Raises OSError where the system's limit of watches is reached."""
        self._observer.schedule(self, self._root, recursive=True, event_filter=_EVENTS)
        self._observer.start()

    def stop(self) -> None:
        if self._observer.is_alive():
            try:
                self._observer.stop()
            except KeyError:
                # watchdog 7.1 loses count of a folder that was moved out of new/ and in again. Its threads are daemons,
                # and this one is not told to end then.
                return
            self._observer.join()

    def dispatch(self, event: FileSystemEvent) -> None:
        for path in {event.src_path, event.dest_path}:
            parts = os.fsdecode(path)[len(self._root) + 1 :].split("/", 1)
            if path and parts[0] and not parts[0].startswith("."):
                renamed_in = isinstance(event, _MOVED) and not event.src_path and len(parts) == 1
                renamed_in = renamed_in and (event.is_directory or parts[0].lower().endswith(SUFFIX))
                self._pending.append((parts[0], renamed_in))
        if self._pending and not self._posted:
            self._posted = True
            with contextlib.suppress(RuntimeError):  # the loop has ended; so will this thread
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._posted = False
        while self._pending:
            self._stirred(*self._pending.popleft())
