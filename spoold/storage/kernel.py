"""Calls of the Linux kernel that Python has no function for, by ctypes."""

import ctypes
import errno
import os

_libc = ctypes.CDLL(None, use_errno=True)
#: The same without giving up Python's lock: for calls that do not wait.
_libc_locked = ctypes.PyDLL(None)
#: None where this machine's C library has no such function.
_syscall = getattr(_libc_locked, "syscall", None)
_preadv2 = getattr(_libc_locked, "preadv2", None)
_syncfs = getattr(_libc, "syncfs", None)
_sync_file_range = getattr(_libc, "sync_file_range", None)
_NOWAIT = getattr(os, "RWF_NOWAIT", None)
if _syscall is not None:
    _syscall.restype = ctypes.c_long
    _syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
if _preadv2 is not None:
    _preadv2.restype = ctypes.c_ssize_t
    _preadv2.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_int)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


#: openat2(2), Linux 5.12: the same number on every architecture.
_SYS_OPENAT2 = 437
#: RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH, RESOLVE_CACHED.
_AT_ONCE = _OpenHow(os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0, 0x04 | 0x08 | 0x20)
_HOW = (ctypes.byref(_AT_ONCE), ctypes.sizeof(_AT_ONCE))


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class ReadBuffer:
    """Where `read_at_once` puts what it reads: files of up to `limit` bytes."""

    def __init__(self, limit: int) -> None:
        # One more byte shows that a file is larger.
        content = (ctypes.c_ubyte * (limit + 1))()
        self.view = memoryview(content)
        self.vector = _IoVec(ctypes.addressof(content), limit + 1)
        self.pointer = ctypes.byref(self.vector)


def read_cached(root: int, name: str, buffer: ReadBuffer) -> bytes | None:
    """The content of the file `name` below `root` as far as it is in the kernel's memory; see `Files.read_at_once`."""
    if _syscall is None or _preadv2 is None or _NOWAIT is None:
        return None
    fd = _syscall(_SYS_OPENAT2, root, name.encode("utf-8", "surrogateescape"), *_HOW)
    if fd < 0:
        return None
    size = _preadv2(fd, buffer.pointer, 1, 0, _NOWAIT)
    os.close(fd)
    return bytes(buffer.view[:size]) if 0 < size < len(buffer.view) else None


def sync_filesystem(fd: int) -> None:
    """syncfs(2) of the file system of `fd`, or of all there are. Raises OSError."""
    if _syncfs is None:
        os.sync()
    elif _syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


#: SYNC_FILE_RANGE_WAIT_BEFORE, _WRITE and _WAIT_AFTER.
_WRITE_AND_WAIT = 1 | 2 | 4


def write_out(fd: int) -> None:
    """Give the content of the file `fd` to its device, without waiting for the device to say that it is durable
    (sync_file_range(2)): what the file system's journal records afterwards, such as a rename, is not durable before that
    content is. Raises OSError; nothing where the file system cannot.
    """
    if _sync_file_range is None:
        os.fsync(fd)
    elif _sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), _WRITE_AND_WAIT) != 0:
        number = ctypes.get_errno()
        if number not in (errno.EINVAL, errno.ESPIPE, errno.ENOSYS):
            raise OSError(number, os.strerror(number))


def same_mount(one: int, other: int) -> bool:
    """Whether things can be renamed between these two directories: a bind mount is not to be told by its device."""
    try:
        # Never done: the kernel compares the mounts first, and then refuses the name.
        os.rename(".", ".", src_dir_fd=one, dst_dir_fd=other)
    except OSError as error:
        return error.errno != errno.EXDEV
    return True
