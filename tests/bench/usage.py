"""What a process and everything it started used: CPU time and memory, from Linux's /proc."""

import os
from pathlib import Path

from tests.servers.process import descendants

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, of its living descendants, and of its children that have ended.

    A child's time goes to its parent's when it is waited for, so nothing is lost between two calls.
    """
    return sum(_ticks(process) for process in (pid, *descendants(pid))) / TICKS


def peak_memory(pid: int) -> float:
    """The most memory in MB that the process has had resident, and the same of each living descendant."""
    return sum(_high_water(process) for process in (pid, *descendants(pid)))


def forget_peak(pid: int) -> None:
    """Let `peak_memory` count from now on (proc(5), clear_refs)."""
    for process in (pid, *descendants(pid)):
        Path(f"/proc/{process}/clear_refs").write_text("5")


def _ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0  # it ended while we looked: its parent has its time
    return sum(map(int, fields[11:15]))


def _high_water(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1000
