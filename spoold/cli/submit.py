"""`spoold submit`: a job folder, looked through and sealed, handed over to a spool here or on another machine."""

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from spoold.cli import config
from spoold.cli.cargo import load
from spoold.cli.destination import Destination, Place, TransferError, destination
from spoold.cli.destination import Progress as Told
from spoold.cli.job import inspect
from spoold.core.problem import printable
from spoold.storage.spooldir import SpoolError

_SHOWN = 10
#: Looks for the job after it was handed over, a second apart; waiting for its end, more and more seldom.
_LOOKS = 3
_PATIENCE = 10.0
_FINAL = ("finished", "cancelled", "rejected")


def run(options: argparse.Namespace) -> int:
    """Hand it over and say where it stands; with --wait 0 only if everybody was sent to."""
    jobdir = options.jobdir
    name = options.name if options.name is not None else Path(jobdir).resolve().name
    spool = destination(options.dest or str(config.place(config.find(options.config))[0]))
    found = inspect(options, jobdir, name)
    for problem in (*found.problems, *found.failures[:_SHOWN]):
        print(problem, file=sys.stderr)
    if found.problems:
        print(f"spoold: {printable(jobdir)}: not submitted, nothing was copied", file=sys.stderr)
        return 1
    if found.failures:
        print("note: these recipients will fail, the others are sent to", file=sys.stderr)
    try:
        return _submit(spool, options, name, found.summary)
    except (TransferError, SpoolError) as error:
        print(f"spoold: {error}", file=sys.stderr)
        return 1


def _submit(spool: Destination, options: argparse.Namespace, name: str, summary: str) -> int:
    with _progress() as bar:
        cargo = load(options.jobdir, bar("seal"))
        before = spool.names(name)
        if before.get(name) == "new":
            raise TransferError(f"new/{name}: an upload of this name waits there already; wait, or give another --name")
        if name in before:
            print(f"note: there is a job {name} already, in {before[name]}/; this one gets a number", file=sys.stderr)
        spool.hand_over(cargo, name, bar("copy"))
    print(f"{name}: {summary}, handed over to {printable(spool.label)}")
    sys.stdout.flush()
    place = _find(spool, name, cargo.digest, before, wait=options.wait)
    if place is None or place.status is None:
        where = "new" if place is None else place.folder
        print(f"{place.name if place else name}: in {where}/, not taken yet; the agent takes it when it runs")
        return 0
    status = place.status
    counts = ", ".join(f"{count} {state}" for state, count in status["counts"].items() if count)
    reason = f" ({printable(status['reason'])})" if status["reason"] else ""
    print(f"{place.name}: in {place.folder}/, {status['state']}{reason}" + (f": {counts}" if counts else ""))
    if status["state"] in ("rejected", "cancelled"):
        return 1
    return int(options.wait and status["counts"].get("sent", 0) < status["total"])


def _find(spool: Destination, name: str, digest: str, before: dict[str, str], *, wait: bool) -> Place | None:
    """Where the job stands once it was taken, or once it has ended; None while nobody takes it."""
    pause, place = 1.0, None
    look = 0
    while wait or look < _LOOKS:
        look += 1
        places = [place for place in spool.find(name, digest) if place.name not in before or place.folder == "new"]
        place = max(places, key=lambda place: place.status is not None, default=place)
        if place is not None and place.status is not None and (not wait or place.status["state"] in _FINAL):
            break
        time.sleep(pause)
        if look > _LOOKS:
            pause = min(_PATIENCE, pause * 1.2)
    return place


@contextlib.contextmanager
def _progress() -> Iterator["_Bars"]:
    """Bars on a terminal, nothing elsewhere."""
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn(),
        console=console, disable=not console.is_terminal, transient=True,
    ) as progress:  # fmt: skip
        yield _Bars(progress)


class _Bars:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def __call__(self, text: str) -> Told:
        task = self._progress.add_task(text, total=None)
        return lambda done, total: self._progress.update(task, completed=done, total=total)
