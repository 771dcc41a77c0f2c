"""What a look at a file system shows: entries, and what each of them is."""

import errno
import os
import stat
from dataclasses import dataclass
from enum import Enum

Path = tuple[str, ...]


class Kind(Enum):
    """What a directory entry is; the value completes the sentence "X is …"."""

    FILE = "a regular file"
    DIRECTORY = "a directory"
    SYMLINK = "a symbolic link"
    FIFO = "a FIFO"
    SOCKET = "a socket"
    DEVICE = "a device"
    HARD_LINK = "a hard link (a file with a second name)"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a tree. `name` is its path from the tree's root, parts joined by /; times are nanoseconds since the
    epoch.

    There may be hundreds of thousands: what is known by an entry's name has that very string, not one like it.
    """

    name: str
    kind: Kind
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    uid: int
    links: int = 1
    """How many names it has, where it is no directory."""

    @property
    def path(self) -> Path:
        """The parts of the name."""
        return tuple(self.name.split("/"))

    @property
    def fingerprint(self) -> tuple[int, int, int]:
        """Changes when the content does; stays the same over a rename."""
        return (self.inode, self.size, self.mtime_ns)


class TreeTooLargeError(Exception):
    """A tree has more entries or levels than allowed."""


class NotRegularError(Exception):
    """A name that should be a file of one link is something else."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind.value)
        self.kind = kind


def no_file(name: str, kind: Kind) -> str:
    """What is said of `name`, where a plain file should be, and what to do."""
    linked = ", or one whose names are all in the job: copy it without cp -l or rsync -H"
    return f"{name}: is {kind.value}; expected a plain file{linked if kind is Kind.HARD_LINK else ''}"


def kind_of(status: os.stat_result) -> Kind:
    mode = status.st_mode
    if stat.S_ISREG(mode):
        return Kind.FILE if status.st_nlink == 1 else Kind.HARD_LINK
    if stat.S_ISDIR(mode):
        return Kind.DIRECTORY
    if stat.S_ISLNK(mode):
        return Kind.SYMLINK
    if stat.S_ISFIFO(mode):
        return Kind.FIFO
    if stat.S_ISSOCK(mode):
        return Kind.SOCKET
    return Kind.DEVICE


def entry_of(name: str, status: os.stat_result) -> Entry:
    return Entry(
        name,
        kind_of(status),
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ino,
        status.st_uid,
        1 if stat.S_ISDIR(status.st_mode) else status.st_nlink,
    )


#: What a machine is short of, or fails at, for the moment.
_MACHINE = frozenset({
    errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EROFS, errno.EAGAIN, errno.EINTR,
})  # fmt: skip


def is_machines(error: OSError) -> bool:
    """Whether an error is the machine's (disk full, too many open files …) and goes by itself or with it.

    Any other is that of the thing itself, which somebody put there or changed: it stays until it is out of the way.
    """
    return error.errno in _MACHINE
