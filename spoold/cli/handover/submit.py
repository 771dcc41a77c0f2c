"""`spoold submit`: a job folder, looked through and sealed, handed over to a spool here or on another machine."""

import argparse
import sys
import time
from pathlib import Path

from spoold.cli import config
from spoold.cli.handover.cargo import load
from spoold.cli.handover.destination import Destination, Place, TransferError, destination
from spoold.cli.handover.progress import Unit, progress
from spoold.cli.handover.validate import inspect
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
    with progress("Sealing", Unit.BYTES) as told:
        cargo = load(options.jobdir, told)
    before = spool.names(name)
    if before.get(name) == "new":
        raise TransferError(f"new/{name}: an upload of this name waits there already; wait, or give another --name")
    if name in before:
        print(f"note: there is a job {name} already, in {before[name]}/; this one gets a number", file=sys.stderr)
    with progress("Copying", Unit.BYTES) as told:
        spool.hand_over(cargo, name, told)
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
