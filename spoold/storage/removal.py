"""Removing a folder with all below it, whatever somebody else put there: any depth, any number, by two descriptors.

It goes down and up one folder at a time. `..` of a folder is believed only where it is the very folder that was come
from, so that nobody leads it elsewhere by renaming while it works. It stays on its mount.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spoold.storage.kernel import same_mount

if TYPE_CHECKING:
    from spoold.storage.files import Files


@dataclass(slots=True)
class _Level:
    """A folder on the way down: which one it is, and the names in it that are still to be removed."""

    identity: tuple[int, int]
    names: list[str]
    inside: str = ""
    """The folder in it that is being emptied."""


class Removal:
    """One removal by `files`. `error` is the first thing that was refused; all else is removed nevertheless."""

    def __init__(self, files: "Files") -> None:
        self._files = files
        self.error: OSError | None = None

    def run(self, parent: int, name: str, going: Callable[[], bool]) -> None:
        """Remove `name` in `parent`, as long as `going` says so. Raises OSError only where it cannot tell where it is."""
        here = os.dup(parent)
        try:
            way = [_Level(_identity(here), [name])]
            while going():
                if way[-1].names:
                    here = self._remove(here, way)
                elif len(way) == 1:
                    return
                else:
                    here = self._leave(here, way)
        finally:
            os.close(here)

    def _remove(self, here: int, way: list[_Level]) -> int:
        """Remove the next name, or go into it; returns where we are then."""
        name = way[-1].names.pop()
        try:
            if not stat.S_ISDIR(os.stat(name, dir_fd=here, follow_symlinks=False).st_mode):
                self._files.unlink(here, name)
                return here
            below = self._files.open_directory(here, name)
        except FileNotFoundError:
            return here
        except OSError as error:
            # A folder that cannot be looked into may be empty.
            if not self._remove_directory(here, name):
                self._refused(error)
            return here
        try:
            if not same_mount(here, below):
                raise OSError(errno.EBUSY, "is another mount", name)
            level = _Level(_identity(below), self._files.names(below))
        except OSError as error:
            os.close(below)
            self._refused(error)
            return here
        way[-1].inside = name
        way.append(level)
        os.close(here)
        return below

    def _leave(self, here: int, way: list[_Level]) -> int:
        """Go back up from a folder of which nothing is left to be removed, and remove it."""
        above = self._files.open_directory(here, "..")
        way.pop()
        if _identity(above) != way[-1].identity:
            os.close(above)
            raise OSError(errno.ESTALE, "a folder was moved while it was being removed", way[-1].inside)
        os.close(here)
        try:
            self._files.remove_directory(above, way[-1].inside)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._refused(error)
        return above

    def _remove_directory(self, here: int, name: str) -> bool:
        with contextlib.suppress(OSError):
            self._files.remove_directory(here, name)
            return True
        return False

    def _refused(self, error: OSError) -> None:
        self.error = self.error or error


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return (status.st_dev, status.st_ino)
