"""Whose agent it is: a spool is worked on by its own user alone, and its private files are that user's, and no links.

Another user, root too, would leave files that the agent cannot write to afterwards, and would follow where that user's links lead.
"""

import contextlib
import os
import pwd
import stat
from pathlib import Path

from spoold.storage.spooldir import PRIVATE, Spool, SpoolError

_DATABASE = "spool.db"
_FILES = (_DATABASE, f"{_DATABASE}-wal", f"{_DATABASE}-shm", f"{_DATABASE}-journal", "lock")


def require_owner(spool: Spool) -> None:
    """Raises SpoolError where this process is not the spool's own user, or its private files are not this user's own."""
    private = spool.fd(PRIVATE)
    found = os.fstat(private)
    require_user(spool.path, found.st_uid)
    if stat.S_IMODE(found.st_mode) & 0o077:
        os.fchmod(private, 0o700)
    for name in _FILES:
        with contextlib.suppress(FileNotFoundError):
            _check(spool.path / PRIVATE / name, os.stat(name, dir_fd=private, follow_symlinks=False))


def require_user(spool: Path, uid: int) -> None:
    """Raises SpoolError, which says how, where this process is not `uid`, the user of the spool."""
    if os.geteuid() == uid:
        return
    try:
        name = pwd.getpwuid(uid).pw_name
        how = f"runuser -u {name} -- spoold …"
    except KeyError:
        name = f"uid {uid}"
        how = f"setpriv --reuid={uid} --regid={uid} --clear-groups spoold …"
    raise SpoolError(f"{spool}: is the spool of {name}, and only its own user may do this; as root: {how}")


def require_same(spool: Spool) -> None:
    """Raises SpoolError where what SQLite opened by its path is not what stands in the spool's private folder."""
    ours = os.stat(_DATABASE, dir_fd=spool.fd(PRIVATE), follow_symlinks=False)
    if not os.path.samestat(ours, os.stat(spool.database)):
        raise SpoolError(
            f"{spool.database}: is not the file that stands in the spool; was a folder exchanged just now?"
        )
    _check(spool.database, ours)


def _check(path: Path, found: os.stat_result) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise SpoolError(
            f"{path}: is a symbolic link; expected the agent's own file; to have it elsewhere, move the spool"
        )
    if not stat.S_ISREG(found.st_mode):
        raise SpoolError(f"{path}: is no plain file; expected the agent's own one")
    if found.st_uid != os.geteuid():
        raise SpoolError(
            f"{path}: belongs to uid {found.st_uid}; expected the spool's own user; as root: chown {os.geteuid()} {path}"
        )
