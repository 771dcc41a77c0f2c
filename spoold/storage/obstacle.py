"""What stands under a name that is the agent's to give: removed, or renamed out of the way and told of.

Other users of the spool's group can put anything under almost any name. None of it may keep the agent from its work, and
none of it is worth a person's coming: what cannot be removed gets a hidden name that nobody looks at again.
"""

import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from spoold.core.problem import printable
from spoold.storage.entry import NotRegularError, TreeTooLargeError, is_machines

if TYPE_CHECKING:
    from spoold.storage.files import Files

#: How the names begin that things get which stood in the way.
ASIDE = ".aside-"
#: Bytes of the name that a thing had, in the one that it gets: 255 without what is put around it.
_NAME_KEPT = 200
#: A rename's errors where something else has the new name.
_IN_THE_WAY = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR)


def rename_over(files: "Files", from_fd: int, name: str, to_fd: int, new_name: str) -> None:
    """Rename; whatever stands as `new_name` is set aside, if it is not simply replaced. Raises OSError."""
    try:
        files.rename(from_fd, name, to_fd, new_name)
    except OSError as error:
        if error.errno not in _IN_THE_WAY or set_aside(files, to_fd, new_name) is None:
            raise
        files.rename(from_fd, name, to_fd, new_name)


def clear(files: "Files", parent: int, name: str) -> None:
    """Let nothing stand as `name`: a folder that is not empty is set aside, anything else removed. Raises OSError."""
    try:
        files.unlink(parent, name)
    except FileNotFoundError:
        pass
    except OSError as error:
        if is_machines(error):
            raise
        with contextlib.suppress(OSError):
            files.remove_directory(parent, name)
            return
        if set_aside(files, parent, name) is None:
            raise


def set_aside(files: "Files", parent: int, name: str, error: Exception | None = None) -> str | None:
    """Rename what stands in the way as `name` to a hidden name that nobody looks at again, and tell of it, and of `error`.

    Returns that name; None where nothing stands there, or what cannot be renamed either, such as a mount. Raises OSError
    only for the machine's.
    """
    entry = files.stat(parent, (name,))
    if entry is None:
        return None
    kept = os.fsdecode(os.fsencode(name)[:_NAME_KEPT]).lstrip(".")
    aside = f"{ASIDE}{kept}-{secrets.token_hex(4)}"
    try:
        files.rename(parent, name, parent, aside)
    except OSError as refused:
        if is_machines(refused):
            raise
        return None
    # Programs that only write jobs come by here as well, and do without a log.
    from spoold.event import log

    where, reason = f"{_path_of(parent)}/{name}", None if error is None else text_of(error)
    log("spool.set_aside", where=printable(where, 500), kind=entry.kind.value, now=printable(aside, 300), error=reason)
    return aside


@contextlib.contextmanager
def tolerating(way_out: Callable[[Exception], object]) -> Iterator[None]:
    """Call `way_out` where the work shows that something is not what the agent would have made: any error of the file
    system's that is not the machine's, which is raised."""
    try:
        yield
    except (OSError, NotRegularError, TreeTooLargeError) as error:
        if isinstance(error, OSError) and is_machines(error):
            raise
        way_out(error)


def text_of(error: Exception) -> str:
    """What went wrong, and with what, in a few words."""
    if not isinstance(error, OSError):
        return f"is {error}" if isinstance(error, NotRegularError) else str(error)
    return f"{error.strerror or error}" + (f" ({printable(str(error.filename), 200)})" if error.filename else "")


def _path_of(fd: int) -> str:
    """For people: where the directory `fd` stands."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return "?"
