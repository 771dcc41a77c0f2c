"""Taking an upload out of its sender's hands, and giving it back if that was too early.

The upload is renamed to `new/.claim-NAME`, then its files go one by one into a folder that the agent made,
`active/.take-NAME`: by rename where the agent's own uid owns everything, else by copy. A late writer that still has
the old folder open writes into that and changes nothing here. After a kill, `give_back` makes one upload of what is in
the two again.
"""

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from spoold.core.folder import MANIFEST, READY, REPORT, is_content, is_hidden, is_temporary
from spoold.core.problem import printable
from spoold.failpoint import failpoint
from spoold.intake.time_limit import BOUNDLESS, TimeLimit
from spoold.storage.entry import Entry, Kind, Path
from spoold.storage.files import Files
from spoold.storage.spooldir import CLAIM, TAKE, TAKEN, Spool
from spoold.storage.tree import Tree

#: Bytes of an upload's name; a file system's 255 without the prefixes that it gets here.
_NAME_LIMIT = 240
#: More files than this are synced with their whole file system.
_MANY = 100
#: A limit of a message's size that anybody sets is no lower than this, in bytes …
_LARGE = 1_000_000
#: … and no more than so many of an upload's sizes are thought to have been beyond one.
_LIMITS = 8


class ChangedError(Exception):
    """The upload changed while it was being taken: it was not complete."""


@dataclass(frozen=True, slots=True)
class Custody:
    """An upload whose files were brought over, not yet durable. `hashes` are those of copies.

    `files` are those to be read. `sizes` are those of files that are `unread`, and of those that a lower limit would have left
    unread.
    """

    name: str
    files: tuple[str, ...]
    hashes: Mapping[str, bytes]
    sizes: Mapping[str, int]
    unread: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Taken:
    """An upload in the agent's hands. `hashes` are SHA-256 by file name, `digest` names the content as a whole.

    A file that is `unread` has no hash and counts by its size. `earlier` are the digests that the same content may have
    got while `intake.max_message` was lower.
    """

    hashes: Mapping[str, bytes]
    digest: bytes
    unread: frozenset[str] = frozenset()
    earlier: tuple[bytes, ...] = ()


def claim(spool: Spool, name: str) -> str:
    """Rename `new/NAME` to `new/.claim-NAME`; returns NAME, cut where it is too long for that. Raises OSError.

    `new/` is to be synced before anything of the upload is moved.
    """
    key = os.fsdecode(os.fsencode(name)[:_NAME_LIMIT])
    try:
        spool.files.rename(spool.fd("new"), name, spool.fd("new"), CLAIM + key)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise OSError(error.errno, f"new/{printable(CLAIM + key)} is in the way; remove it") from None
        raise
    failpoint("claim-renamed")
    return key


def make_way(spool: Spool, name: str, entries: Iterable[Entry]) -> None:
    """Make `active/.take-NAME` and the folders of the upload in it.

    `active/` is to be synced before a file is moved there: the way to a file is on the disk before the file is there,
    else a power cut could leave it nowhere.
    """
    files = spool.files
    files.make_directory(spool.fd("active"), TAKE + name)
    folders = sorted(entry.path for entry in _wanted(entries) if entry.kind is Kind.DIRECTORY)
    with spool.job("active", TAKE + name) as target:
        for path in folders:
            with files.directory(target, path[:-1]) as parent:
                files.make_directory(parent, path[-1])
        for path in {path[:-1] for path in folders}:
            with files.directory(target, path) as parent:
                files.sync(parent)


def take(
    spool: Spool,
    name: str,
    entries: Iterable[Entry],
    owner: int,
    unread: frozenset[str] = frozenset(),
    time_limit: TimeLimit = BOUNDLESS,
) -> Custody:
    """Bring the claimed upload's files into the folders of `make_way`; `secure` and `digest` come next.

    `entries` is what was there when it was judged complete; anything else raises ChangedError. Files of an owner other
    than `owner` are refused with ChangedError too: nobody's files are taken by another's name. What an interrupted or
    unfinished transfer left under a hidden temporary name stays behind. The files `unread` are neither hashed nor copied
    nor synced: where the others are moved they are too, else they stay behind. Raises OvertimeError.
    """
    entries = _wanted(entries)
    files = spool.files
    move = owner == os.geteuid() and all(entry.uid == owner for entry in entries)
    hashes: dict[str, bytes] = {}
    with spool.tree("new", CLAIM + name) as source, spool.tree("active", TAKE + name) as target:
        wanted = [entry for entry in entries if entry.kind is Kind.FILE]
        for entry in wanted:
            if entry.uid != owner:
                raise ChangedError(f"{printable(entry.name)} belongs to another user than the folder")
            if move:
                _move(files, source, target, entry.name)
                after = target.stat(entry.name)
            else:
                if entry.name not in unread:
                    hashes[entry.name] = _copy(files, source, target, entry.name, time_limit)
                after = source.stat(entry.name)
            if after is None or after.fingerprint != entry.fingerprint:
                raise ChangedError(f"{printable(entry.name)} changed while the upload was being taken")
            failpoint("file-taken")
    read = tuple(entry.name for entry in wanted if entry.name not in unread)
    return Custody(
        name,
        read,
        hashes,
        {entry.name: entry.size for entry in wanted if entry.size >= _LARGE or entry.name in unread},
        unread,
    )


def secure(spool: Spool, held: Sequence[Custody]) -> None:
    """Make durable what was taken of these uploads. Raises OSError."""
    files = spool.files
    if sum(len(custody.files) for custody in held) > _MANY:
        files.sync_filesystem(spool.fd("active"))
        return
    for custody in held:
        with spool.job("active", TAKE + custody.name) as target:
            for path in map(_path, custody.files):
                files.sync_file(target, path)
                failpoint("file-synced")
            for path in {path[:-1] for path in map(_path, custody.files)} | {()}:
                with files.directory(target, path) as folder:
                    files.sync(folder)


def leave(spool: Spool, name: str) -> None:
    """Take nothing of the claimed upload after all: what was copied of it goes again, and it gets its report."""
    spool.files.remove_tree(spool.fd("active"), TAKE + name)
    spool.files.make_directory(spool.fd("active"), TAKE + name)


def digest(spool: Spool, custody: Custody, time_limit: TimeLimit = BOUNDLESS) -> Taken:
    """The hashes of what was taken. Raises OvertimeError."""
    hashes = dict(custody.hashes)
    with spool.tree("active", TAKE + custody.name) as target:
        for name in custody.files:
            if name not in hashes:
                hashes[name] = hash_of(time_limit.over(target.chunks(name))).digest()
    whole = _content_digest(hashes, custody, custody.unread)
    return Taken(hashes, whole, custody.unread, tuple(_earlier_digests(custody, hashes)))


def _content_digest(hashes: Mapping[str, bytes], custody: Custody, unread: Set[str]) -> bytes:
    """The digest of all, files that are not read by their sizes."""
    by_size = {name: hashlib.sha256(b"unread" + custody.sizes[name].to_bytes(8)).digest() for name in unread}
    return content_digest({**hashes, **by_size} if by_size else hashes)


def _earlier_digests(custody: Custody, hashes: Mapping[str, bytes]) -> Iterator[bytes]:
    """With any of the largest files too large to be read; lists of recipients always are."""
    large = {
        name: size
        for name, size in custody.sizes.items()
        if size >= _LARGE and name in hashes and name != MANIFEST and not name.lower().endswith((".csv", ".txt"))
    }
    for least in sorted(set(large.values()), reverse=True)[:_LIMITS]:
        names = custody.unread.union(name for name, size in large.items() if size >= least)
        yield _content_digest(hashes, custody, names)


def _wanted(entries: Iterable[Entry]) -> list[Entry]:
    return [
        entry for entry in entries if entry.name.partition("/")[0] not in (REPORT, READY) and not _is_rest(entry.name)
    ]


def _is_rest(name: str) -> bool:
    return is_hidden(name) and is_temporary(name)


def content_digest(hashes: Mapping[str, bytes]) -> bytes:
    """One digest for the names and contents of all files that are content (no control file, seal or hidden name).

    Hidden names are never looked at; an interrupted upload leaves some, and its repetition does not.
    """
    whole = hashlib.sha256()
    for name in sorted(hashes):
        if is_content(name) and not is_hidden(name):
            encoded = os.fsencode(name)
            whole.update(len(encoded).to_bytes(4) + encoded + hashes[name])
    return whole.digest()


def give_back(spool: Spool, name: str) -> str:
    """Put a claimed upload back into `new/`, whatever had been taken of it; returns the name that it has there."""
    files = spool.files
    claimed = files.stat(spool.fd("new"), (CLAIM + name,)) is not None
    taken = files.stat(spool.fd("active"), (TAKE + name,)) is not None
    if claimed and taken:
        with spool.job("active", TAKE + name) as root:
            entries = files.walk(root, max_entries=10_000_000, max_depth=100)
        with spool.tree("new", CLAIM + name) as source, spool.tree("active", TAKE + name) as target:
            for entry in entries:
                if entry.kind is Kind.FILE and source.stat(entry.name) is None:
                    with contextlib.suppress(FileNotFoundError):
                        _move(files, target, source, entry.name)
        with spool.job("new", CLAIM + name) as folder:
            files.sync(folder)
        files.remove_tree(spool.fd("active"), TAKE + name)
    back, number = name, 1
    while files.stat(spool.fd("new"), (back,)) is not None:
        number += 1
        back = f"{name[:94]}.{number}"
    if claimed:
        spool.move(CLAIM + name, "new", "new", back)
    elif taken:
        spool.move(TAKE + name, "active", "new", back)
    return back


def set_aside(spool: Spool, name: str, job: str) -> None:
    """Rename what is left of an upload that has become a job to `.taken-JOB`; it is rubbish then.

    `new/` is to be synced before the job is called settled: as `.claim-NAME` it would be given back, and could be sent
    once more.
    """
    if spool.files.stat(spool.fd("new"), (CLAIM + name,)) is not None:
        spool.files.rename(spool.fd("new"), CLAIM + name, spool.fd("new"), TAKEN + job)


def remove_rest(spool: Spool, job: str) -> None:
    """Remove what was set aside. Raises OSError where another user's folder forbids it; nobody looks at it again."""
    spool.files.remove_tree(spool.fd("new"), TAKEN + job)


def _path(name: str) -> Path:
    return tuple(name.split("/"))


def _move(files: Files, source: Tree, target: Tree, name: str) -> None:
    here, child = source.locate(name)
    there, _ = target.locate(name)
    files.rename(here, child, there, child)


def _copy(files: Files, source: Tree, target: Tree, name: str, time_limit: TimeLimit) -> bytes:
    """A private copy: only that is safe from a writer of another uid who has the file open."""
    digest = hashlib.sha256()
    fd = files.create(*target.locate(name))
    try:
        for chunk in time_limit.over(source.chunks(name)):
            digest.update(chunk)
            files.write(fd, chunk)
    finally:
        os.close(fd)
    return digest.digest()


def hash_of(chunks: Iterable[bytes]) -> "hashlib._Hash":
    """Their SHA-256."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest
