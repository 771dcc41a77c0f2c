"""The spool's folders on disk, the lock on them, and the moves of jobs between them.

A job stands in exactly one of `FOLDERS` as a visible folder. Two hidden forms exist while it is being taken:
`new/.claim-NAME`, the upload renamed out of its sender's sight, and `active/.take-NAME`, what has been taken of it.
What is left of an upload afterwards, `new/.taken-JOB`, is rubbish.
"""

import contextlib
import errno
import fcntl
import os
import re
import secrets
import socket
import stat
from collections.abc import Iterator
from pathlib import Path as FilePath

from spoold.core.problem import UserError, printable
from spoold.storage.files import Files
from spoold.storage.kernel import same_mount
from spoold.storage.tree import Tree

FOLDERS = ("new", "active", "deferred", "done")
CLAIM = ".claim-"
TAKE = ".take-"
TAKEN = ".taken-"
PRIVATE = ".spoold"
#: What a hidden name has in front where something else has the plain one.
_MARK = re.compile("~[0-9a-f]{8}~")
_NAME = re.compile(r"[A-Za-z0-9_@+][A-Za-z0-9._@+-]{0,99}")


def valid_name(name: str) -> bool:
    """Whether a folder of this name can be a job (CONTRACT §1)."""
    return _NAME.fullmatch(name) is not None


def clean_name(name: str) -> str:
    """A valid name as near to `name` as can be, for the report of a folder whose name is refused."""
    return re.sub(r"[^A-Za-z0-9._@+-]", "_", name).lstrip(".-")[:90] or "unnamed"


def marked(name: str) -> str:
    """Another hidden name for `name`, one that nobody has."""
    return f"~{secrets.token_hex(4)}~{name}"


def plain_name(key: str) -> str:
    """The name in a hidden one, be it marked or not."""
    return key[found.end() :] if (found := _MARK.match(key)) is not None and found.end() < len(key) else key


class SpoolError(UserError):
    """The spool cannot be used; the text says why and what to do."""


def refuse_links(path: FilePath) -> None:
    """The spool's own path may be a symbolic link, its folders may not. Raises SpoolError."""
    for name in ("tmp", *FOLDERS, PRIVATE):
        with contextlib.suppress(OSError):
            target = os.readlink(path / name)
            raise SpoolError(
                f"{path}: cannot open the spool: a folder of it is a symbolic link to {printable(target)} ({name}); jobs are"
                " renamed from one folder to the next: put a folder there, and move the whole spool instead, whose own path"
                " may be a link"
            )


class Spool:
    """An open spool. Keeps one descriptor for each folder; the folders themselves must not be replaced meanwhile."""

    def __init__(self, path: FilePath, files: Files) -> None:
        self.path = path
        self.files = files
        self._fds: dict[str, int] = {}
        self._lock: int | None = None
        try:
            refuse_links(path)
            # The path is the administrator's own.
            self.root = files.open_directory(None, os.path.realpath(path))
            for name in ("tmp", *FOLDERS, PRIVATE):
                self._fds[name] = files.open_directory(self.root, name)
        except FileNotFoundError as error:
            raise SpoolError(
                f"{path}: no spool here ({error.filename} is missing); make one: spoold init {path}"
            ) from None
        except OSError as error:
            raise SpoolError(f"{path}: cannot open the spool: {error.strerror} ({error.filename})") from None

    @staticmethod
    def create(path: FilePath) -> list[str]:
        """Make what is missing of a spool at `path`, closed to others; returns the names that were made. Raises SpoolError."""
        refuse_links(path)
        path = FilePath(os.path.realpath(path))
        made = []
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o750, exist_ok=True)
        for name in ("tmp", *FOLDERS):
            if not (path / name).is_dir():
                (path / name).mkdir(mode=0o750)
                made.append(name)
        if not (path / PRIVATE).is_dir():
            (path / PRIVATE).mkdir(mode=0o700)
            made.append(PRIVATE)
        return made

    @staticmethod
    def complete(path: FilePath) -> None:
        """Make the private folder where all the others are and are this user's, as in a copy of the example spool."""
        if (
            all((path / name).is_dir() for name in ("tmp", *FOLDERS))
            and (path / "active").stat().st_uid == os.geteuid()
        ):
            with contextlib.suppress(FileExistsError):
                (path / PRIVATE).mkdir(mode=0o700)

    def adopt_umask(self) -> None:
        """Let what this process makes from now on be as open as `new/` is: never to others where that is closed to
        them, and to the group, for CANCEL and the like, where that is a setgid folder that the group may write to.
        """
        mode = stat.S_IMODE(os.fstat(self.fd("new")).st_mode)
        mask = os.umask(0o077) | ~mode & 0o007
        if mode & stat.S_ISGID and mode & stat.S_IWGRP:
            mask &= ~0o070
        os.umask(mask)

    def close(self) -> None:
        for fd in (*self._fds.values(), self.root):
            os.close(fd)
        if self._lock is not None:
            os.close(self._lock)
        self._fds.clear()

    def fd(self, folder: str) -> int:
        return self._fds[folder]

    @property
    def database(self) -> FilePath:
        return self.path / PRIVATE / "spool.db"

    def lock(self) -> None:
        """Take the spool for this process until it ends; SpoolError names the process that has it."""
        fd = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=self.fd(PRIVATE))
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(fd, 200).decode(errors="replace").strip() or "another agent"
            os.close(fd)
            raise SpoolError(f"{self.path}: the spool is in use by {holder}; one agent serves one spool") from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"spoold, pid {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        self._lock = fd

    def is_locked(self) -> bool:
        """Whether an agent has the spool now."""
        try:
            fd = os.open("lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self.fd(PRIVATE))
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    @property
    def is_gone(self) -> bool:
        """Whether the spool's path leads elsewhere than at the start, or nowhere: it was moved, removed or unmounted."""
        ours = os.fstat(self.root)
        try:
            found = os.stat(self.path)
        except OSError as error:
            return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)
        return (found.st_dev, found.st_ino) != (ours.st_dev, ours.st_ino)

    def check_mounts(self) -> None:
        """Raises SpoolError where jobs cannot be renamed from one folder to another."""
        for name in ("tmp", *FOLDERS[1:]):
            if not same_mount(self.fd("new"), self.fd(name)):
                raise SpoolError(
                    f"{self.path}: {name}/ and new/ are on different mounts, and jobs move between them by a rename;"
                    f" mount the whole of {self.path}, not a folder of it"
                )

    def check_folders(self) -> None:
        """Raises OSError where a folder's name stands for another one than at the start: nobody would look there."""
        for name, fd in self._fds.items():
            ours, found = os.fstat(fd), self.files.stat(self.root, (name,))
            if found is None or found.inode != ours.st_ino:
                problem = "is missing" if found is None else "is another folder than at the start"
                raise OSError(errno.ESTALE, f"{name}/ {problem}; put the first one back, or restart the agent")

    def jobs(self, folder: str) -> list[str]:
        """The names in `folder` that do not begin with a dot, sorted."""
        return sorted(name for name in self.files.names(self.fd(folder)) if not name.startswith("."))

    def hidden(self, folder: str, prefix: str) -> list[str]:
        """The names in `folder` that begin with `prefix`, without it."""
        return sorted(
            name.removeprefix(prefix) for name in self.files.names(self.fd(folder)) if name.startswith(prefix)
        )

    def find(self, name: str, folders: tuple[str, ...] = FOLDERS) -> str | None:
        """The folder in which the job `name` stands."""
        for folder in folders:
            if self.files.stat(self.fd(folder), (name,)) is not None:
                return folder
        return None

    def taking(self, name: str) -> list[tuple[str, str]]:
        """(folder, hidden name) of the upload `name` while it is being taken: what the job will be first, then the rest."""
        return [
            (folder, prefix + key)
            for folder, prefix in (("active", TAKE), ("new", CLAIM))
            for key in self.hidden(folder, prefix)
            if plain_name(key) == name
        ]

    @contextlib.contextmanager
    def job(self, folder: str, name: str) -> Iterator[int]:
        """The descriptor of a job's folder, for the length of a with block."""
        fd = self.files.open_directory(self.fd(folder), name)
        try:
            yield fd
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def tree(self, folder: str, name: str) -> Iterator[Tree]:
        """The files of a job, for the length of a with block."""
        with self.job(folder, name) as root, Tree(self.files, root) as tree:
            yield tree

    def move(self, name: str, source: str, target: str, new_name: str | None = None) -> None:
        """Rename `source/name` to `target/new_name` and make the move durable."""
        self.files.rename(self.fd(source), name, self.fd(target), new_name or name)
        self.sync_move(source, target)

    def sync_move(self, source: str, target: str) -> None:
        """Make durable what was renamed from `source` to `target`: there first, so that a power cut leaves it somewhere.

        For the same reason nothing may have been renamed the other way since that was synced.
        """
        self.files.sync(self.fd(target))
        if source != target:
            self.files.sync(self.fd(source))
