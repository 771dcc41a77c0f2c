"""A job folder in the making: written where nobody looks, sealed, synced, and put in its place by one rename.

Who writes one need not be the agent's user: of the spool only `tmp/` and `new/` are opened. What is written is as open
to the group as `tmp/` is, and never open to others.
"""

import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path as FilePath
from types import TracebackType
from typing import Self

from spoold.core.folder import SEAL, is_content, is_hidden
from spoold.core.problem import printable
from spoold.core.seal import format_seal
from spoold.storage.entry import Path
from spoold.storage.files import Files
from spoold.storage.spooldir import SpoolError, refuse_links

#: More files than this are synced with their whole file system.
_MANY = 100


class NameTakenError(Exception):
    """There is a folder of this name already."""


class Draft:
    """A folder `.NAME.…` below the directory `parent`; removed at the end of a with block unless it was published."""

    def __init__(self, files: Files, parent: int, name: str) -> None:
        self._files = files
        self._parent = parent
        self._name = f".{name}.{secrets.token_hex(4)}"
        self._folder_mode, self._file_mode = modes_below(os.fstat(parent).st_mode)
        files.make_directory(parent, self._name, 0o700)
        self._root = files.open_directory(parent, self._name)
        os.fchmod(self._root, self._folder_mode)
        self._published = False
        self._folders: set[Path] = {()}
        self._hashes: dict[str, str] = {}

    def add(self, path: Path, chunks: Iterable[bytes]) -> None:
        """Write the file `path`, a new one."""
        for depth in range(1, len(path)):
            folder = path[:depth]
            if folder not in self._folders:
                with self._files.directory(self._root, folder[:-1]) as above:
                    self._files.make_directory(above, folder[-1], 0o700)
                with self._files.directory(self._root, folder) as made:
                    os.fchmod(made, self._folder_mode)
                self._folders.add(folder)
        digest = hashlib.sha256()
        with (
            self._files.directory(self._root, path[:-1]) as folder_fd,
            self._files.closing(self._files.create(folder_fd, path[-1], 0o600)) as fd,
        ):
            os.fchmod(fd, self._file_mode)
            for chunk in chunks:
                digest.update(chunk)
                self._files.write(fd, chunk)
            if len(self._hashes) < _MANY:
                self._files.sync(fd)
        self._hashes["/".join(path)] = digest.hexdigest()

    def seal(self) -> bytes:
        """Write SHA256SUMS for all content that was added; returns its text."""
        content = {name: digest for name, digest in self._hashes.items() if is_content(name) and not is_hidden(name)}
        text = format_seal(content).encode(errors="surrogateescape")
        self.add((SEAL,), [text])
        return text

    def publish(self, target: int, name: str) -> None:
        """Rename the folder to `name` in the directory `target`: it is there, whole and durable, or not at all.

        Raises NameTakenError.
        """
        if len(self._hashes) > _MANY:
            self._files.sync_filesystem(self._root)
        for folder in sorted(self._folders, reverse=True):
            with self._files.directory(self._root, folder) as fd:
                self._files.sync(fd)
        if self._files.stat(target, (name,)) is not None:
            raise NameTakenError(name)
        try:
            self._files.rename(self._parent, self._name, target, name)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise NameTakenError(name) from None
            raise
        self._published = True
        self._files.sync(target)
        self._files.sync(self._parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._root)
        if not self._published:
            with contextlib.suppress(OSError):
                self._files.remove_tree(self._parent, self._name)


def modes_below(mode: int) -> tuple[int, int]:
    """The modes of folders and files of a job that is made in a folder of this mode."""
    return mode & 0o2070 | 0o700, mode & 0o060 | 0o600


@contextlib.contextmanager
def entrance(files: Files, spool: str) -> Iterator[tuple[int, int]]:
    """The descriptors of `tmp/` and `new/` of the spool at the path `spool`. Raises SpoolError."""
    with contextlib.ExitStack() as stack:
        refuse_links(FilePath(spool))
        try:
            root = stack.enter_context(files.closing(files.open_directory(None, os.path.realpath(spool))))
            tmp = stack.enter_context(files.closing(files.open_directory(root, "tmp")))
            new = stack.enter_context(files.closing(files.open_directory(root, "new")))
        except (FileNotFoundError, NotADirectoryError):
            raise SpoolError(
                f"{printable(spool)}: no spool here (tmp/ and new/ are missing); make one: spoold init {printable(spool)}"
            ) from None
        except OSError as error:
            raise SpoolError(f"{printable(spool)}: cannot open the spool: {error.strerror}") from None
        yield tmp, new
