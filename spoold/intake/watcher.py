"""Notification of changes in new/, as hints: what it misses, the regular look finds.

Only new/ itself is watched: which uploads come and go. What changes inside one is seen by the look once a second; to watch
every folder below, too, took a quarter of the time when thousands of jobs came in, the most of it for the files that the
agent itself moves out. watchdog calls from a thread of its own; a handler that raises would end that thread without a
word, so this one does next to nothing.
"""

import contextlib
import os
from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.inotify import InotifyObserver

from spoold.intake.pickup import SUFFIX
from spoold.storage.spooldir import Spool

_EVENTS: list[type[FileSystemEvent]] = [
    DirCreatedEvent, DirDeletedEvent, DirMovedEvent, FileClosedEvent, FileCreatedEvent, FileDeletedEvent, FileMovedEvent,
]  # fmt: skip
_MOVED = (DirMovedEvent, FileMovedEvent)


class Watcher(FileSystemEventHandler):
    """Tells `stirred(upload, renamed_in)` on the event loop; a burst costs one call into the loop.

    `renamed_in`: a folder (or a message file) came into new/ by a rename from outside; False: it came otherwise, or has gone;
    None: something else stirred. What gets or had a hidden name in new/ is moved by the agent itself, which knows.
    """

    def __init__(self, spool: Spool, loop: AbstractEventLoop, stirred: Callable[[str, bool | None], None]) -> None:
        self._root = os.path.join(os.fsdecode(spool.path.resolve()), "new")
        self._loop = loop
        self._stirred = stirred
        self._pending: deque[tuple[str, bool | None]] = deque()
        self._posted = False
        self._observer: InotifyObserver | None = None

    def start(self) -> None:
        """Raises OSError where the system's limits are reached."""
        # "Full events" tell a folder that was renamed in from elsewhere (a move without a source) from one that was made.
        observer = InotifyObserver(generate_full_events=True)
        observer.schedule(self, self._root, recursive=False, event_filter=_EVENTS)
        observer.start()
        self._observer = observer

    def stop(self) -> None:
        if self._observer is not None and self._observer.is_alive():
            self._observer.stop()
            self._observer.join()

    def dispatch(self, event: FileSystemEvent) -> None:
        names = [os.fsdecode(path)[len(self._root) + 1 :] for path in (event.src_path, event.dest_path)]
        if any(name.startswith(".") for name in names):
            return
        for name in filter(None, names):
            if "/" not in name:
                renamed_in = None if isinstance(event, FileClosedEvent) else False
                if isinstance(event, _MOVED) and not event.src_path:
                    renamed_in = event.is_directory or name.lower().endswith(SUFFIX)
                self._pending.append((name, renamed_in))
        if self._pending and not self._posted:
            self._posted = True
            with contextlib.suppress(RuntimeError):  # the loop has ended; so will this thread
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._posted = False
        while self._pending:
            self._stirred(*self._pending.popleft())
