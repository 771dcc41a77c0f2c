"""Removing jobs that are done: after `keep_done`, and when `spoold purge` asks for it.

The database says what is done and since when, and no other job is touched. The folder goes first and the database's
rows last, so that a kill in between leaves a job that the next purge removes. A request is a file in `.spoold/`, which
only the agent's user can write; it is removed when it was obeyed.
"""

import contextlib
import functools
import secrets
import time
from collections.abc import Callable, Collection

import orjson

from spoold.event import log
from spoold.storage.obstacle import set_aside, text_of, tolerating
from spoold.storage.spooldir import PRIVATE, Spool
from spoold.storage.store import Store

_PREFIX = "purge-"
_LIMIT = 256 * 1024 * 1024


class Purge:
    """See the module. For a thread, one at a time; whoever uses it has the spool's lock."""

    def __init__(self, spool: Spool, store: Store) -> None:
        self._spool = spool
        self._store = store

    def remove(self, before: float, names: Collection[str] | None = None) -> list[str]:
        """Remove the jobs that were done before the moment `before`, of `names` if given; returns those removed."""
        removed = []
        for job_id, name in self._store.ended_before(before):
            if names is not None and name not in names:
                continue
            if self._spool.find(name, ("active", "deferred")) is not None:
                continue  # its last report is being written; then it moves to done/
            try:
                with tolerating(functools.partial(self._leave, name)):
                    self._spool.files.remove_tree(self._spool.fd("done"), name)
            except OSError as error:
                log("job.remove_failed", job=name, error=text_of(error))
                continue
            self._store.forget(job_id)
            log("job.removed", job=name)
            removed.append(name)
        return removed

    def _leave(self, name: str, error: Exception) -> None:
        """What others put into the job's folder and the agent may not remove is no reason to keep the job."""
        files, done = self._spool.files, self._spool.fd("done")
        if set_aside(files, done, name, error) is None and files.stat(done, (name,)) is not None:
            raise error

    def obey(self) -> None:
        """Do what requests ask for."""
        files, private = self._spool.files, self._spool.fd(PRIVATE)
        for request in files.names(private):
            if not request.startswith(_PREFIX):
                continue
            try:
                # Whoever asked may have given up meanwhile.
                wanted = orjson.loads(files.read_small(private, (request,), _LIMIT))
                self.remove(float(wanted["before"]), frozenset(wanted["jobs"]))
            except FileNotFoundError:
                continue
            except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
                log("job.remove_failed", job=request, error=f"not a request: {error!r}")
            with contextlib.suppress(FileNotFoundError):
                files.unlink(private, request)


def request(spool: Spool, before: float, names: Collection[str], *, told: Callable[[], None], pause: float) -> bool:
    """Ask the agent that runs to remove jobs, and wait; returns whether it did as far as it could.

    `told` is called every `pause` seconds. False: the agent ended before it looked, and the request was withdrawn.
    """
    files, private = spool.files, spool.fd(PRIVATE)
    name = f"{_PREFIX}{secrets.token_hex(8)}"
    files.replace(private, name, [orjson.dumps({"before": before, "jobs": sorted(names)})])
    try:
        while files.stat(private, (name,)) is not None:
            if not spool.is_locked():
                return False
            time.sleep(pause)
            told()
        return True
    finally:
        files.remove_tree(private, name)
