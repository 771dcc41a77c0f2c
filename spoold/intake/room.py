"""Room on the disk for copies: an upload is copied only where all of it fits beside what must stay free."""

import threading

from spoold.storage.spooldir import Spool


class Room:
    """See the module; for intake's threads. Of the spool's file system `reserve` bytes stay free."""

    def __init__(self, spool: Spool, reserve: int) -> None:
        self._spool = spool
        self._reserve = reserve
        self._promised: dict[int, int] = {}
        self._lock = threading.Lock()

    def lacks(self, folder: int, size: int) -> str | None:
        """What is missing for the upload with this inode, of which `size` bytes are to be copied; None: they are promised.

        The size is the files' own, holes in them included: a copy has none. Raises OSError.
        """
        free = self._spool.files.free_bytes(self._spool.root)
        with self._lock:
            self._promised.pop(folder, None)
            left = free - sum(self._promised.values()) - size
            if left < self._reserve:
                if not size or free < self._reserve:
                    return "the disk is nearly full; it is taken when there is room"
                return (
                    f"the disk has too little room: {size} bytes of it are to be copied, {max(left + size, 0)} are free,"
                    f" and {self._reserve} must stay so; it is taken when there is room"
                )
            if size:
                self._promised[folder] = size
        return None

    def release(self, folder: int) -> None:
        """It is copied, or will not be for now."""
        with self._lock:
            self._promised.pop(folder, None)
