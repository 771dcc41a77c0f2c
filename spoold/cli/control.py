"""`spoold cancel`, `hold`, `release` and `retry`: they touch the control files, wherever the job stands."""

import argparse
import contextlib
import os
import sys

from spoold.agent.control_file import UNCERTAIN
from spoold.cli.command import configuration, open_spool
from spoold.core.folder import CANCEL, HOLD, RETRY
from spoold.core.problem import printable
from spoold.storage.spooldir import FOLDERS, Spool, valid_name

#: A job may move while it is told; it does so a few times at most in the time that this takes.
_TRIES = 10
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
            print(f"spoold: {printable(name)}: {problem}", file=sys.stderr)
            code = 1
        else:
            print(f"{name}: {_DONE[options.command]}")
    if not code and not spool.is_locked():
        print("(No agent runs on this spool now; the next one obeys.)")
    return code


def _tell(spool: Spool, name: str, options: argparse.Namespace) -> str | None:
    """Touch the job's control file; returns why that cannot be, None if it was done."""
    for _ in range(_TRIES):
        if not valid_name(name):
            return "no such job in this spool"
        # While an upload is taken it has two folders, neither of that name; and beside a live job another of its name may have come.
        places = spool.taking(name)
        places += [(folder, name) for folder in FOLDERS[:-1] if spool.find(name, (folder,)) is not None]
        if not places:
            done = spool.find(name, ("done",)) is not None
            return "is done already; its report is in report/status.txt" if done else "no such job in this spool"
        told = [_tell_in(spool, *place, options) for place in places]
        if any(problem is None for problem in told):
            return None
        if problems := [problem for problem in told if problem]:
            return problems[-1]
    return "moves from folder to folder; try again"


def _tell_in(spool: Spool, folder: str, name: str, options: argparse.Namespace) -> str | None:
    """The same in one place; an empty text where the agent has just moved it to another."""
    try:
        with spool.job(folder, name) as root:
            return _write(spool, root, options)
    except FileNotFoundError:
        return ""
    except NotADirectoryError:
        return "is no job: a job is a folder"
    except OSError as error:
        return f"cannot be told: {error.strerror}"


def _write(spool: Spool, root: int, options: argparse.Namespace) -> str | None:
    control = _FILES[options.command]
    if options.command == "release":
        try:
            spool.files.unlink(root, control)
        except FileNotFoundError:
            return "is not held"
    elif options.command == "retry" and options.uncertain:
        # A RETRY that was not obeyed yet may lack the word: this one takes its place.
        spool.files.replace(root, control, [f"{UNCERTAIN}\n".encode()])
    else:
        with contextlib.suppress(FileExistsError):
            os.close(spool.files.create(root, control))
    return None
