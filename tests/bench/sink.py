"""Postfix's smtp-sink as the relay of measurements, and what a process used."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

TICKS = os.sysconf("SC_CLK_TCK")


class Sink:
    """smtp-sink on a free port of 127.0.0.1: takes everything, keeps nothing."""

    def __init__(self, *arguments: str) -> None:
        program = shutil.which("smtp-sink") or "/usr/sbin/smtp-sink"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        self._process = subprocess.Popen([program, *user, *arguments, f"127.0.0.1:{self.port}", "1000"])
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()


def peak_memory(pid: int) -> float:
    """The most memory that the process has had resident, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1000
    raise ValueError("no VmHWM")


def cpu_seconds(pid: int) -> float:
    """User and system time of the process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS
