"""The hidden forms in which an upload stands while it is taken out of its sender's hands, and the way back.

The upload is renamed to `new/.claim-KEY`; its files go into a folder that the agent made, `active/.take-KEY`. Once it is a
job, what is left of it is `new/.taken-…`, rubbish. A late writer that still has the old folder open writes into that
and changes nothing. After a kill, `give_back` makes one upload of what is in the two again.
"""

import contextlib
import errno
import os
from collections.abc import Container, Iterable

from spoold.core.folder import CANCEL, HOLD, READY, REPORT, is_hidden, is_temporary
from spoold.failpoint import failpoint
from spoold.storage.entry import Entry, Kind, Path
from spoold.storage.files import Files
from spoold.storage.spooldir import CLAIM, TAKE, TAKEN, Spool, marked, plain_name
from spoold.storage.tree import Tree

#: Bytes of an upload's name; a file system's 255 without the prefixes that it gets here.
_NAME_LIMIT = 230
#: How a rename fails where something else has the name.
IN_THE_WAY = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
_HIDDEN = (("new", CLAIM), ("active", TAKE))


def claim(spool: Spool, name: str) -> str:
    """Rename `new/NAME` to `new/.claim-KEY`; returns KEY, of which `plain_name` makes the name again. Raises OSError.

    KEY is the name itself, cut where it is too long for that, and marked where something else stands in the way: the
    leftover of whoever it be is left alone. `new/` is to be synced before anything of the upload is moved.
    """
    key = os.fsdecode(os.fsencode(name)[:_NAME_LIMIT])
    while True:
        if all(spool.files.stat(spool.fd(folder), (hidden + key,)) is None for folder, hidden in _HIDDEN):
            try:
                spool.files.rename(spool.fd("new"), name, spool.fd("new"), CLAIM + key)
            except OSError as error:
                if error.errno not in IN_THE_WAY:
                    raise
            else:
                failpoint("claim-renamed")
                return key
        key = marked(plain_name(key))


def make_way(spool: Spool, name: str, entries: Iterable[Entry]) -> None:
    """Make `active/.take-NAME` and in it the folders of these files.

    `active/` is to be synced before a file is moved there: the way to a file is on the disk before the file is there,
    else a power cut could leave it nowhere.
    """
    files = spool.files
    files.make_directory(spool.fd("active"), TAKE + name)
    folders = sorted(_folders(wanted(entries)))
    with spool.job("active", TAKE + name) as target:
        for path in folders:
            with files.directory(target, path[:-1]) as parent:
                files.make_directory(parent, path[-1])
        for path in {path[:-1] for path in folders}:
            with files.directory(target, path) as parent:
                files.sync(parent)


def _folders(entries: Iterable[Entry]) -> set[Path]:
    parents = {entry.name.rpartition("/")[0] for entry in entries if entry.kind is Kind.FILE}
    paths = (tuple(parent.split("/")) for parent in parents if parent)
    return {path[:depth] for path in paths for depth in range(1, len(path) + 1)}


def give_back(spool: Spool, name: str, *, copied: bool | None = None) -> str | None:
    """Put a claimed upload back into `new/`, whatever had been taken of it; returns the name that it has there.

    None where its folder is gone: its owner has removed it, and what the agent has of it is no upload. What was `copied`
    is not given back, for the sender may have removed it from the folder meanwhile; where nobody knows, another user's
    upload was.
    """
    files = spool.files
    claimed = files.stat(spool.fd("new"), (CLAIM + name,))
    taken = files.stat(spool.fd("active"), (TAKE + name,))
    if copied is None:
        copied = claimed is not None and claimed.uid != os.geteuid()
    if claimed is not None and taken is not None:
        if copied:
            with contextlib.suppress(OSError):  # another user's folder may not permit it
                _carry(spool, ("active", TAKE + name), ("new", CLAIM + name))
        else:
            _put_back(spool, name)
    if taken is not None:
        files.remove_tree(spool.fd("active"), TAKE + name)
    if claimed is None:
        return None
    plain = plain_name(name)
    back, number = plain, 1
    while True:
        if files.stat(spool.fd("new"), (back,)) is None:
            try:
                spool.move(CLAIM + name, "new", "new", back)
            except OSError as error:
                if error.errno not in IN_THE_WAY:
                    raise
            else:
                return back
        number += 1
        back = f"{plain[:94]}.{number}"


def _put_back(spool: Spool, name: str) -> None:
    """Move the files that were moved."""
    files = spool.files
    with spool.job("active", TAKE + name) as root:
        entries = files.walk(root, max_entries=10_000_000, max_depth=100)
    with spool.tree("new", CLAIM + name) as source, spool.tree("active", TAKE + name) as target:
        for entry in entries:
            if entry.kind is Kind.FILE and source.stat(entry.name) is None:
                with contextlib.suppress(FileNotFoundError):
                    move(files, target, source, entry.name)
    with spool.job("new", CLAIM + name) as folder:
        files.sync(folder)


def set_aside(spool: Spool, name: str, job: str) -> str | None:
    """Rename what is left of an upload that has become a job to `.taken-REST`; it is rubbish then. Returns REST.

    `new/` is to be synced before the job is called settled: as `.claim-NAME` it would be given back, and could be sent
    once more. None where nothing is left.
    """
    rest = job
    while spool.files.stat(spool.fd("new"), (CLAIM + name,)) is not None:
        try:
            spool.files.rename(spool.fd("new"), CLAIM + name, spool.fd("new"), TAKEN + rest)
        except OSError as error:
            if error.errno not in IN_THE_WAY:
                raise
            rest = marked(job)
        else:
            return rest
    return None


def remove_rest(spool: Spool, rest: str) -> None:
    """Remove what was set aside. Raises OSError where another user's folder forbids it; nobody looks at it again."""
    spool.files.remove_tree(spool.fd("new"), TAKEN + rest)


def wanted(entries: Iterable[Entry]) -> list[Entry]:
    """Those that are taken: neither report nor READY, nor what an interrupted transfer left."""
    return [
        entry for entry in entries if entry.name.partition("/")[0] not in (REPORT, READY) and not _is_rest(entry.name)
    ]


def _is_rest(name: str) -> bool:
    return is_hidden(name) and is_temporary(name)


def move(files: Files, source: Tree, target: Tree, name: str) -> None:
    """Rename the file `name` below the one to the same name below the other."""
    here, child = source.locate(name)
    there, _ = target.locate(name)
    files.rename(here, child, there, child)


def hand_over(spool: Spool, rest: str, job: tuple[str, str], known: Container[str]) -> None:
    """What was asked for in the upload's old folder while it was taken is asked for in the job's: (place, name).

    `known` are the names that the upload had when it was complete: they were taken, and may have been taken back.
    """
    with contextlib.suppress(FileNotFoundError, PermissionError):
        _carry(spool, ("new", TAKEN + rest), job, known)


def _carry(spool: Spool, source: tuple[str, str], target: tuple[str, str], known: Container[str] = ()) -> None:
    files = spool.files
    with spool.job(*source) as here:
        asked = [name for name in (CANCEL, HOLD) if name not in known and files.stat(here, (name,)) is not None]
    if asked:
        with spool.job(*target) as there:
            for name in asked:
                with contextlib.suppress(FileExistsError):
                    os.close(files.create(there, name))
