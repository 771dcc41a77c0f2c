"""Taking a claimed upload's files into the agent's hands (`claim` says where they are then), durable, with their digest.

They go one by one: by rename where the agent's own uid owns everything, else by copy.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from spoold.core.folder import CONTROL_FILES, MANIFEST, is_content, is_hidden
from spoold.core.problem import printable
from spoold.failpoint import failpoint
from spoold.intake.claim import move, wanted
from spoold.intake.time_limit import BOUNDLESS, TimeLimit
from spoold.storage.entry import Entry, Kind, Path
from spoold.storage.files import Files
from spoold.storage.link import LinkedFiles
from spoold.storage.spooldir import CLAIM, TAKE, Spool
from spoold.storage.tree import Tree

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


def moves(entries: Iterable[Entry], owner: int) -> bool:
    """Whether an upload of this owner is moved into the agent's hands, rather than copied."""
    return owner == os.geteuid() and all(
        entry.uid == owner for entry in wanted(entries) if entry.name not in CONTROL_FILES
    )


def take(
    spool: Spool,
    name: str,
    entries: Iterable[Entry],
    owner: int,
    unread: frozenset[str] = frozenset(),
    time_limit: TimeLimit = BOUNDLESS,
    *,
    left: Mapping[str, bytes | None] | None = None,
) -> Custody:
    """Bring the claimed upload's files into the folders of `make_way`; `secure` and `digest` come next.

    `entries` is what was there when it was judged complete; anything else raises ChangedError. Files of an owner other
    than `owner` are refused with ChangedError too: nobody's files are taken by another's name. What an interrupted or
    unfinished transfer left under a hidden temporary name stays behind. The files `unread` are neither hashed nor copied
    nor synced: where the others are moved they are too, else they stay behind. Those `left` are not copied: they are hashed
    where they are, unless their hash is known. Raises OvertimeError.
    """
    entries, left = wanted(entries), left or {}
    files = spool.files
    moved = moves(entries, owner)
    hashes: dict[str, bytes] = {}
    with (
        spool.job("new", CLAIM + name) as root,
        Tree(LinkedFiles(files), root) as source,
        spool.tree("active", TAKE + name) as target,
    ):
        found = [entry for entry in entries if entry.kind is Kind.FILE]
        for entry in found:
            if entry.name in CONTROL_FILES:
                # Whoever asks for it: what counts is that it is there.
                with contextlib.suppress(FileExistsError):
                    os.close(files.create(*target.locate(entry.name)))
                continue
            if entry.uid != owner:
                raise ChangedError(f"{printable(entry.name)} belongs to another user than the folder")
            try:
                # One of several names would leave the others, to change it by.
                stays = not moved or entry.links > 1
                if not stays:
                    move(files, source, target, entry.name)
                elif entry.name in left:
                    hashes[entry.name] = left[entry.name] or _hash_in_place(source, entry, time_limit)
                elif entry.name not in unread:
                    hashes[entry.name] = _copy(files, source, target, entry, time_limit)
            except FileNotFoundError:
                raise ChangedError(f"{printable(entry.name)} vanished while the upload was being taken") from None
            after = (source if stays else target).stat(entry.name)
            if after is None or after.fingerprint != entry.fingerprint:
                raise ChangedError(f"{printable(entry.name)} changed while the upload was being taken")
            failpoint("file-taken")
    read = tuple(entry.name for entry in found if entry.name not in unread and entry.name not in left)
    return Custody(
        name,
        read,
        hashes,
        {entry.name: entry.size for entry in found if entry.size >= _LARGE or entry.name in unread},
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


def _path(name: str) -> Path:
    return tuple(name.split("/"))


def _copy(files: Files, source: Tree, target: Tree, entry: Entry, time_limit: TimeLimit) -> bytes:
    """A private copy: only that is safe from a writer of another uid who has the file open.

    No more than was there at the look: of that the disk has room.
    """
    digest = hashlib.sha256()
    fd = files.create(*target.locate(entry.name))
    try:
        for chunk in _as_it_was(source, entry, time_limit):
            digest.update(chunk)
            files.write(fd, chunk)
    finally:
        os.close(fd)
    return digest.digest()


def _hash_in_place(source: Tree, entry: Entry, time_limit: TimeLimit) -> bytes:
    return hash_of(_as_it_was(source, entry, time_limit)).digest()


def _as_it_was(source: Tree, entry: Entry, time_limit: TimeLimit) -> Iterator[bytes]:
    left = entry.size
    for chunk in time_limit.over(source.chunks(entry.name)):
        left -= len(chunk)
        if left < 0:
            raise ChangedError(f"{printable(entry.name)} changed while the upload was being taken")
        yield chunk


def hash_of(chunks: Iterable[bytes]) -> "hashlib._Hash":
    """Their SHA-256."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest
