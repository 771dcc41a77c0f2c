"""What `spoold check` says of the machine: its clock, its limits, its name, and the disk that the spool is on."""

import ctypes
import errno
import os
import resource
import socket
import time
from pathlib import Path

from spoold.agent.supervisor import RESERVE
from spoold.cli.check.finding import Findings
from spoold.cli.config import Config
from spoold.core.quantity import format_duration
from spoold.storage.database import DatabaseError
from spoold.storage.snapshot import Snapshot
from spoold.storage.spooldir import Spool

#: Descriptors beside the connections: the spool, the database, jobs that are taken and read.
_OWN_FILES = 250
_ENOUGH = 1024**3
_FEW_INODES = 5000
_CLOCK_MAY_DIFFER = 2.0
#: Nobody runs this program before it was written.
_NOT_BEFORE = 1_760_000_000.0
_NETWORK_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "fuse.sshfs", "fuse.glusterfs"}
)
_STA_UNSYNC = 0x40
_IN_CLOEXEC = 0o2000000
_IN_CREATE = 0x100


def check_disk(spool: Spool, findings: Findings) -> None:
    """Bytes, inodes, and whether all folders are on one local file system."""
    found = os.fstatvfs(spool.root)
    free, inodes = found.f_bavail * found.f_frsize, found.f_favail
    text = f"disk: {_size(free)} free"
    if free < RESERVE:
        findings.bad("disk.space", f"{text}; the agent sends nothing below {_size(RESERVE)}", "make room")
    elif free < _ENOUGH:
        findings.warn("disk.space", f"{text}; the agent stops at {_size(RESERVE)}", "make room, or shorten keep_done")
    else:
        findings.good("disk.space", text)
    if found.f_files:  # 0: a file system that makes them as it goes
        text = f"disk: {inodes} files more can be made"
        if inodes < _FEW_INODES:
            say = findings.bad if inodes < 100 else findings.warn
            say("disk.inodes", text, "remove files, or shorten keep_done")
        else:
            findings.good("disk.inodes", text)
    kind = _file_system(spool.path)
    if kind in _NETWORK_SYSTEMS:
        findings.bad(
            "disk.kind",
            f"{spool.path} is on {kind}: locks and renames cannot be trusted",
            "put the spool on a local disk",
        )


def check_clock(spool: Spool, findings: Findings) -> None:
    """Whether the clock can be right: against the database, against the disk, and by what the kernel says."""
    now = time.time()
    if now < _NOT_BEFORE:
        findings.bad("clock", f"clock: it is {time.strftime('%Y-%m-%d', time.gmtime(now))} here", "set the clock")
        return
    newest = _newest(spool)
    if newest is not None and newest > now + _CLOCK_MAY_DIFFER:
        behind = format_duration(newest - now)
        findings.bad("clock", f"clock: it is {behind} behind what the database recorded last", "set the clock")
        return
    unsynchronised = _unsynchronised()
    if unsynchronised:
        findings.warn("clock", "clock: nothing keeps it right", "timedatectl set-ntp true, or install chrony")
    else:
        findings.good("clock", "clock: is kept right" if unsynchronised is False else "clock: plausible")


def check_limits(found: Config, spool: Spool, findings: Findings) -> None:
    """Open files and inotify, as far as this user may have them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = sum(relay.connections for relay in found.agent.relays.values()) + _OWN_FILES
    if hard != resource.RLIM_INFINITY and hard < wanted:
        todo = "raise LimitNOFILE= or `ulimit -Hn`, or lower the relays' `connections`"
        findings.bad("limits.files", f"limits: {hard} open files at most; the configuration needs {wanted}", todo)
    else:
        findings.good("limits.files", f"limits: up to {_count(hard)} open files, {wanted} needed")
    problem = _inotify_problem(os.path.join(os.fsdecode(spool.path), "new"))
    if problem is not None:
        findings.warn("limits.inotify", f"limits: {problem[0]}; changes are found by looking every second", problem[1])
    else:
        findings.good("limits.inotify", f"limits: inotify works, {_setting('max_user_watches')} watches for this user")


def check_name(found: Config, findings: Findings) -> None:
    """What EHLO will say."""
    name = socket.gethostname()
    if "." in name and name.isascii():
        findings.good("name", f"name: this machine says EHLO {name}")
    elif all(_is_loopback(relay.host) for relay in found.agent.relays.values()):
        findings.good("name", f"name: {name}, no domain; relays on this machine do not mind")
    else:
        findings.warn(
            "name", f"name: {name} is no domain, so EHLO says [127.0.0.1]; some relays refuse that",
            "hostnamectl set-hostname with the full name, such as mail.example.com",
        )  # fmt: skip


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host.startswith("127.") or host == "::1"


def _newest(spool: Spool) -> float | None:
    try:
        snapshot = Snapshot(spool.database)
    except (DatabaseError, OSError):
        return None
    try:
        return snapshot.newest()
    except DatabaseError:
        return None
    finally:
        snapshot.close()


def _unsynchronised() -> bool | None:
    """What adjtimex(2) says; None where it says nothing."""
    buffer = ctypes.create_string_buffer(512)
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "adjtimex") or libc.adjtimex(buffer) < 0:
        return None
    # struct timex: an int (and its padding), four longs, then the status as an int.
    word = ctypes.sizeof(ctypes.c_long)
    return bool(ctypes.c_int.from_buffer(buffer, 5 * word).value & _STA_UNSYNC)


def _inotify_problem(path: str) -> tuple[str, str] | None:
    """What keeps this user from watching `path`, and the remedy."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(_IN_CLOEXEC)
    if fd < 0:
        setting = f"fs.inotify.max_user_instances={2 * int(_setting('max_user_instances') or 128)}"
        return (f"no more inotify instances ({os.strerror(ctypes.get_errno())})", f"sysctl {setting}")
    try:
        if libc.inotify_add_watch(fd, os.fsencode(path), _IN_CREATE) < 0:
            number = ctypes.get_errno()
            setting = f"fs.inotify.max_user_watches={2 * int(_setting('max_user_watches') or 8192)}"
            todo = f"sysctl {setting}" if number == errno.ENOSPC else "check the folder's modes"
            return (f"new/ cannot be watched ({os.strerror(number)})", todo)
    finally:
        os.close(fd)
    return None


def _setting(name: str) -> str:
    try:
        return Path("/proc/sys/fs/inotify", name).read_text().strip()
    except OSError:
        return ""


def _file_system(path: Path) -> str | None:
    """The kind of the file system that `path` is on, by /proc/self/mountinfo (proc(5)); None where that is not known."""
    device = os.stat(path).st_dev
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return None
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        fields, _, rest = line.partition(" - ")
        if fields.split(" ")[2] == wanted:
            return rest.split(" ")[0]
    return None


def _size(count: int) -> str:
    return f"{count / 1024**3:.1f} GiB" if count >= 1024**3 else f"{count / 1024**2:.0f} MiB"


def _count(limit: int) -> str:
    return "any number of" if limit == resource.RLIM_INFINITY else str(limit)
