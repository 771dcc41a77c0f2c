"""Notification of changes in new/, as hints: what it misses, the regular look finds.

It speaks to inotify(7) itself. Of new/ it hears which uploads come and go; into an upload it looks only if `follow` asks
for it, because that one is not complete yet. To watch every folder below new/ by library took a fifth of the time when
thousands of jobs came in, the most of it for the files that the agent itself moves out.
"""

import contextlib
import ctypes
import os
import struct
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterable

from spoold.agent.pickup import SUFFIX
from spoold.storage.spooldir import Spool

_CREATE, _DELETE, _CLOSE_WRITE = 0x100, 0x200, 0x8
_MOVED_FROM, _MOVED_TO = 0x40, 0x80
_OVERFLOW, _IGNORED, _ISDIR = 0x4000, 0x8000, 0x40000000
_ONLY_DIRECTORIES, _NO_LINKS = 0x01000000, 0x02000000
_EVENTS = _CREATE | _DELETE | _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _ONLY_DIRECTORIES | _NO_LINKS
_HEAD = struct.Struct("iIII")
_BUFFER = 1 << 16

_libc = ctypes.CDLL(None, use_errno=True)


class Watcher:
    """Tells `stirred(upload, renamed_in)` on the event loop.

    `renamed_in` is True for a folder (or a message file) that came into new/ by a rename from outside, False for an
    upload that came otherwise or has gone, None for a change inside one. Without a name, something was missed.
    """

    def __init__(self, spool: Spool, loop: AbstractEventLoop, stirred: Callable[[str, bool | None], None]) -> None:
        self._root = os.path.join(os.fsencode(spool.path.resolve()), b"new")
        self._loop = loop
        self._stirred = stirred
        self._fd = -1
        self._new = -1
        self._uploads: dict[int, str] = {}
        self._moved_away = 0

    def start(self) -> None:
        """On the event loop. Raises OSError where the system's limits are reached."""
        fd = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if fd < 0:
            raise _error()
        self._fd = fd
        try:
            self._new = self._watch(b"")
        except OSError:
            self.stop()
            raise
        self._loop.add_reader(fd, self._read)

    def stop(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def follow(self, upload: str, folders: Iterable[str]) -> None:
        """Hear of what changes in these folders of an upload, "" being itself. For threads.

        A watch ends with its folder, or when the folder is followed no more because it was moved out of new/.
        """
        if self._fd < 0:
            return
        for folder in folders:
            # A folder that is gone, or one watch too many: the regular look makes up for it.
            with contextlib.suppress(OSError):
                watch = self._watch(os.fsencode(os.path.join(upload, folder)))
                if watch != self._new:
                    self._uploads[watch] = upload

    def _watch(self, path: bytes) -> int:
        watch: int = _libc.inotify_add_watch(self._fd, os.path.join(self._root, path), _EVENTS)
        if watch < 0:
            raise _error()
        return watch

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._fd, _BUFFER)
            at = 0
            while at < len(data):
                watch, mask, cookie, size = _HEAD.unpack_from(data, at)
                at += _HEAD.size + size
                self._tell(watch, mask, cookie, data[at - size : at].rstrip(b"\0"))

    def _tell(self, watch: int, mask: int, cookie: int, name: bytes) -> None:
        if mask & _OVERFLOW:
            self._stirred("", None)
        elif mask & _IGNORED:
            self._uploads.pop(watch, None)
        elif watch != self._new:
            if (upload := self._uploads.get(watch)) is not None:
                self._stirred(upload, None)
        else:
            if mask & _MOVED_FROM:
                # If it only got another name, its second half comes next.
                self._moved_away = cookie
            if not name.startswith(b"."):
                here = mask & _MOVED_TO and cookie != self._moved_away
                whole = mask & _ISDIR or name.lower().endswith(os.fsencode(SUFFIX))
                self._stirred(os.fsdecode(name), bool(here and whole))


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
