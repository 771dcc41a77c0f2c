"""The facts of the machine that figures depend on."""

import os
import platform
import sqlite3
import subprocess
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tests.bench.sink import program


def facts() -> list[tuple[str, str]]:
    """(name, value) of each."""
    return [
        ("cores", str(len(os.sched_getaffinity(0)))),
        ("CPU", _cpu()),
        ("load before", f"{os.getloadavg()[0]:.2f}"),
        ("kernel", f"{platform.system()} {platform.release()}"),
        ("Python", platform.python_version()),
        ("SQLite", sqlite3.sqlite_version),
        ("uvloop", _uvloop()),
        ("Postfix", _postfix()),
        ("temporary folder", f"{tempfile.gettempdir()} on {_file_system(tempfile.gettempdir())}"),
    ]


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _uvloop() -> str:
    try:
        return version("uvloop")
    except PackageNotFoundError:
        return "none: the standard library's loop"


def _postfix() -> str:
    postconf = program("postconf")
    if postconf is None:
        return "not installed: rows that need it are skipped"
    asked = subprocess.run([postconf, "-dh", "mail_version"], capture_output=True, text=True, timeout=10, check=False)
    return asked.stdout.strip() or "unknown"


def _file_system(path: str) -> str:
    real = os.path.realpath(path)
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    holding = [
        (len(place), kind) for place, kind in mounts if real == place or real.startswith(place.rstrip("/") + "/")
    ]
    return max(holding)[1] if holding else "unknown"
