"""Every file operation of spoold, by directory descriptor, never through a symbolic link: the one seam for faults.

A path inside a job is a tuple of names; each name is opened by itself below the descriptor of the one before it, so
that no name can lead out of the folder. Errors are OSErrors, as the system gives them.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Iterator

from spoold.failpoint import failpoint
from spoold.storage.entry import Entry, Kind, NotRegularError, Path, TreeTooLargeError, entry_of, kind_of
from spoold.storage.kernel import ReadBuffer, read_cached, sync_filesystem, write_out
from spoold.storage.obstacle import clear, rename_over
from spoold.storage.removal import Removal

CHUNK = 1 << 18
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Files:
    """The file operations. Tests subclass it to make one of them fail."""

    def open_directory(self, parent: int | None, name: str) -> int:
        return os.open(name, _DIRECTORY, dir_fd=parent)

    @contextlib.contextmanager
    def directory(self, root: int, path: Path = ()) -> Iterator[int]:
        """The descriptor of the directory `path` below `root`, for the length of a with block."""
        fd = os.dup(root)
        try:
            for name in path:
                below = self.open_directory(fd, name)
                os.close(fd)
                fd = below
            yield fd
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def closing(self, fd: int) -> Iterator[int]:
        """Close `fd` at the end of a with block."""
        try:
            yield fd
        finally:
            os.close(fd)

    def open_file(self, root: int, path: Path, *, known: bool = False) -> int:
        """A descriptor for reading the regular file `path`, which must have one link and no symlink on its way.

        `known`: the caller knows the content by its digest, so that other names of the file are no matter.
        Raises NotRegularError for anything else, and OSError (ELOOP, ENOTDIR for a link among its directories).
        """
        if len(path) > 1:
            with self.directory(root, path[:-1]) as parent:
                return self.open_file(parent, path[-1:], known=known)
        try:
            fd = os.open(path[0], _READ, dir_fd=root)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise NotRegularError(Kind.SYMLINK) from None
            if error.errno == errno.ENXIO:
                raise NotRegularError(Kind.SOCKET) from None
            raise
        kind = kind_of(os.fstat(fd))
        if kind is not Kind.FILE and not (known and kind is Kind.HARD_LINK):
            os.close(fd)
            raise NotRegularError(kind)
        return fd

    def read_at_once(self, root: int, name: str, buffer: ReadBuffer) -> bytes | None:
        """The content of the file `name` (its path, parts joined by /), as far as the kernel has it in memory; None if it
        does not fit into `buffer`.

        Waits for no disk, nor for Python's lock, and follows no link, so that the event loop may call it. The caller
        knows the content by its digest: less is told of nothing else. None wherever it cannot say, a file that is
        missing among them: `chunks` gives the reason.
        """
        return read_cached(root, name, buffer)

    def chunks(self, root: int, path: Path, size: int = CHUNK, *, known: bool = False) -> Iterator[bytes]:
        """The content of the file `path` in pieces of at most `size` bytes; `known` as in `open_file`."""
        fd = self.open_file(root, path, known=known)
        try:
            while chunk := self.read(fd, size):
                yield chunk
        finally:
            os.close(fd)

    def read(self, fd: int, size: int) -> bytes:
        return os.read(fd, size)

    def read_small(self, root: int, path: Path, limit: int) -> bytes:
        """The first `limit` bytes of a file."""
        return b"".join(self._limited(root, path, limit))

    def _limited(self, root: int, path: Path, limit: int) -> Iterator[bytes]:
        left = limit
        for chunk in self.chunks(root, path, min(limit, CHUNK)):
            yield chunk[:left]
            left -= len(chunk)
            if left <= 0:
                return

    def stat(self, root: int, path: Path) -> Entry | None:
        """The entry `path`, None where there is none."""
        if len(path) == 1:
            return self._stat(root, path[0])
        try:
            with self.directory(root, path[:-1]) as parent:
                return self._stat(parent, path[-1], "/".join(path))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _stat(self, parent: int, child: str, name: str | None = None) -> Entry | None:
        try:
            return entry_of(name or child, os.stat(child, dir_fd=parent, follow_symlinks=False))
        except FileNotFoundError:
            return None

    def names(self, fd: int) -> list[str]:
        return os.listdir(fd)

    def walk(self, root: int, *, max_entries: int, max_depth: int, skip: frozenset[str] = frozenset()) -> list[Entry]:
        """All entries below `root`, directories too, in no order; `skip` names entries of the top level to leave out.

        Raises TreeTooLargeError; a name that vanishes while it is looked at is left out.
        """
        found: list[Entry] = []

        def visit(fd: int, folder: str, depth: int) -> None:
            if depth >= max_depth:
                raise TreeTooLargeError(f"{folder[:100]} is more than {max_depth} folders deep")
            for child in os.listdir(fd):
                if not depth and child in skip:
                    continue
                name = f"{folder}/{child}" if depth else child
                try:
                    entry = entry_of(name, os.stat(child, dir_fd=fd, follow_symlinks=False))
                except FileNotFoundError:
                    continue
                found.append(entry)
                if len(found) > max_entries:
                    raise TreeTooLargeError(f"more than {max_entries} files")
                if entry.kind is Kind.DIRECTORY:
                    try:
                        below = self.open_directory(fd, child)
                    except (FileNotFoundError, NotADirectoryError):
                        continue
                    try:
                        visit(below, name, depth + 1)
                    finally:
                        os.close(below)

        visit(root, "", 0)
        return found

    def make_directory(self, parent: int, name: str, mode: int = 0o777) -> None:
        os.mkdir(name, mode, dir_fd=parent)

    def rename(self, from_fd: int, name: str, to_fd: int, new_name: str) -> None:
        """Rename without replacing a non-empty directory; durable once the directories are synced."""
        os.rename(name, new_name, src_dir_fd=from_fd, dst_dir_fd=to_fd)

    def unlink(self, parent: int, name: str) -> None:
        os.unlink(name, dir_fd=parent)

    def remove_directory(self, parent: int, name: str) -> None:
        os.rmdir(name, dir_fd=parent)

    def sync(self, fd: int) -> None:
        os.fsync(fd)

    def write_out(self, fd: int) -> None:
        """Let no later rename of the file `fd` be durable before its content is: see `kernel.write_out`."""
        write_out(fd)

    def sync_filesystem(self, fd: int) -> None:
        """Everything written to the file system of `fd`: for many files far cheaper than one sync each (syncfs(2))."""
        sync_filesystem(fd)

    def sync_file(self, root: int, path: Path) -> None:
        fd = self.open_file(root, path)
        try:
            self.sync(fd)
        finally:
            os.close(fd)

    def create(self, parent: int, name: str, mode: int = 0o666) -> int:
        """A descriptor for writing the new file `name`; FileExistsError if there is one."""
        return os.open(name, _CREATE, mode, dir_fd=parent)

    def write(self, fd: int, data: bytes) -> None:
        """All of `data`, however many calls it takes."""
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]

    def replace(self, parent: int, name: str, chunks: Iterable[bytes], *, durable: bool = False) -> int:
        """Put `chunks` in the place of the file `name` atomically; returns the size.

        A power cut leaves the old content or the new one, never a part. `durable` syncs both: then it is the new one.
        """
        size = self.stage(parent, name, chunks, durable=durable, ordered=not durable)
        self.publish(parent, name)
        if durable:
            self.sync(parent)
        return size

    def stage(
        self, parent: int, name: str, chunks: Iterable[bytes], *, durable: bool = False, ordered: bool = False
    ) -> int:
        """Write `chunks` beside the file `name`, for `publish`; returns the size."""
        temporary = _staged(name)
        try:
            fd = self.create(parent, temporary)
        except FileExistsError:  # of a process that was killed, or anybody's
            clear(self, parent, temporary)
            fd = self.create(parent, temporary)
        size = 0
        try:
            try:
                for chunk in chunks:
                    self.write(fd, chunk)
                    size += len(chunk)
                if durable:
                    self.sync(fd)
                if ordered:
                    self.write_out(fd)
            finally:
                os.close(fd)
        except BaseException:
            with contextlib.suppress(OSError):
                self.unlink(parent, temporary)
            raise
        return size

    def sync_staged(self, parent: int, name: str) -> None:
        """Make durable what was staged, so that a power cut after `publish` leaves the old content or the new one."""
        self.sync_file(parent, (_staged(name),))

    def publish(self, parent: int, name: str) -> None:
        """Put what was staged in the place of the file `name`."""
        try:
            failpoint("before-report")
            rename_over(self, parent, _staged(name), parent, name)
        except BaseException:
            with contextlib.suppress(OSError):
                self.unlink(parent, _staged(name))
            raise

    def open_append(self, parent: int, name: str, at: int) -> int:
        """A descriptor for appending to the regular file `name`, created if need be and cut to `at` bytes.

        Raises OSError, ESTALE if it is shorter, and NotRegularError; then nothing was changed.
        """
        fd = os.open(name, _APPEND, 0o666, dir_fd=parent)
        try:
            status = os.fstat(fd)
            if (kind := kind_of(status)) is not Kind.FILE:
                raise NotRegularError(kind)
            if status.st_size < at:
                raise OSError(errno.ESTALE, "the file is shorter than what was written to it")
            os.ftruncate(fd, at)
            os.lseek(fd, at, os.SEEK_SET)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def remove_tree(self, parent: int, name: str, going: Callable[[], bool] = lambda: True) -> None:
        """Remove `name` and all below it, following nothing; what is gone already is no error.

        Raises OSError for the first thing that could not be removed, after everything else is gone. It ends early once
        `going` says no.
        """
        removal = Removal(self)
        removal.run(parent, name, going)
        if removal.error is not None:
            raise removal.error

    def free_bytes(self, fd: int) -> int:
        """Bytes that an unprivileged process may still write to the file system of `fd`."""
        found = os.fstatvfs(fd)
        return found.f_bavail * found.f_frsize


def _staged(name: str) -> str:
    return f".{name}.tmp"
