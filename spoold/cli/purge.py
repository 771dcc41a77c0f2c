"""`spoold purge`: removes jobs that have been done for long, whether an agent runs or not; nothing that is not done."""

import argparse
import sys
import time

import orjson

from spoold.agent.purge import Purge, request
from spoold.cli import log
from spoold.cli.command import UsageError, configuration, open_spool
from spoold.cli.config import LogSettings
from spoold.core.quantity import parse_duration
from spoold.storage.archive import Archive
from spoold.storage.owner import require_owner
from spoold.storage.spooldir import Spool
from spoold.storage.store import Store
from spoold.storage.upgrade import open_database

_PAUSE = 0.1


def run(options: argparse.Namespace) -> int:
    """Says what it removes, and asks first on a terminal; 1 if a job could not be removed."""
    try:
        age = parse_duration(options.older_than)
    except ValueError as error:
        raise UsageError(f"--older-than: {error}") from None
    spool = open_spool(configuration(options).spool)
    if not options.dry_run:
        require_owner(spool)
    before = time.time() - age
    with Archive(spool) as archive:
        names = archive.ended_before(before)
    if not options.json:
        for name in names:
            print(name)
    if names and not options.dry_run:
        if not options.yes and not _agreed(len(names)):
            return 1
        _remove(spool, before, names)
    with Archive(spool) as archive:
        left = set(archive.ended_before(before)) & set(names)
    removed = [name for name in names if name not in left]
    if options.json:
        document = {"jobs": names, "removed": removed, "dry_run": options.dry_run}
        sys.stdout.buffer.write(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    elif not names:
        print(f"No job has been done for {options.older_than}.")
    elif options.dry_run:
        print(f"{len(names)} job(s) would be removed.")
    else:
        print(f"{len(removed)} job(s) removed.")
    if left and not options.dry_run:
        print(
            f"spoold: {len(left)} job(s) could not be removed, such as {min(left)}; the agent's log says why",
            file=sys.stderr,
        )
        return 1
    return 0


def _agreed(count: int) -> bool:
    if not sys.stdin or not sys.stdin.isatty():
        raise UsageError("nobody can be asked here: expected --yes, or --dry-run")
    return input(f"Remove these {count} job(s) with their reports? [y/N] ").strip().lower() in ("y", "yes")


def _remove(spool: Spool, before: float, names: list[str]) -> None:
    """By the agent if one runs, for it alone writes to the database then; else in its place, with its lock."""
    if spool.is_locked() and request(spool, before, names, told=lambda: None, pause=_PAUSE):
        return
    log.configure(LogSettings("auto", "warning"))
    spool.lock()
    database, _ = open_database(spool.database)
    try:
        Purge(spool, Store(database)).remove(before, frozenset(names))
    finally:
        database.close()
