"""`spoold cancel`, `hold`, `release` and `retry`: they touch the control files, wherever the job stands."""

import argparse
import contextlib
import os
import sys

from spoold.agent.control import UNCERTAIN
from spoold.cli.command import configuration, open_spool
from spoold.core.completeness import CANCEL, HOLD, RETRY
from spoold.storage.spooldir import Spool, valid_name

_FILES = {"cancel": CANCEL, "hold": HOLD, "release": HOLD, "retry": RETRY}
_DONE = {
    "cancel": "no new message of it leaves from now on",
    "hold": "paused; `spoold release` lets it go on",
    "release": "goes on",
    "retry": "its deferred recipients are tried now",
}


def run(options: argparse.Namespace) -> int:
    """One line a job; 1 if one of them could not be told."""
    spool = open_spool(configuration(options).spool)
    code = 0
    for name in options.jobs:
        problem = _tell(spool, name.rstrip("/").rpartition("/")[2], options)
        if problem is not None:
            print(f"spoold: {name}: {problem}", file=sys.stderr)
            code = 1
        else:
            print(f"{name}: {_DONE[options.command]}")
    if not code and not spool.is_locked():
        print("(No agent runs on this spool now; the next one obeys.)")
    return code


def _tell(spool: Spool, name: str, options: argparse.Namespace) -> str | None:
    folder = spool.find(name) if valid_name(name) else None
    if folder is None:
        return "no such job in this spool"
    if folder == "done":
        return "is done already; its report is in report/status.txt"
    control = _FILES[options.command]
    with spool.job(folder, name) as root:
        if options.command == "release":
            try:
                spool.files.unlink(root, control)
            except FileNotFoundError:
                return "is not held"
            return None
        with contextlib.suppress(FileExistsError):
            fd = spool.files.create(root, control)
            try:
                if options.command == "retry" and options.uncertain:
                    spool.files.write(fd, f"{UNCERTAIN}\n".encode())
            finally:
                os.close(fd)
    return None
