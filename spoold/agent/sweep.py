"""Removes what killed processes and taken uploads left behind under hidden names, after the start and beside the work.

There may be millions of files, of other users, under modes that forbid it: nobody waits for it for long, and what
cannot be removed is set aside, so that it is tried once.
"""

import asyncio
import functools
from concurrent.futures import ThreadPoolExecutor

from spoold.agent.notice import MAKING as NOTICE
from spoold.core.problem import printable
from spoold.event import log
from spoold.intake.pickup import MAKING as PICKUP
from spoold.storage.obstacle import set_aside, text_of, tolerating
from spoold.storage.spooldir import TAKEN, Spool

#: The start waits for so many seconds: what is usual is gone by then.
_PATIENCE = 1.0


class Sweep:
    """See the module."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="sweep")
        self._stopping = False
        self._work: asyncio.Future[None] | None = None

    async def begin(self) -> None:
        """Before anything new is begun in the spool: find what is to be removed, and remove it for a moment."""
        loop = asyncio.get_running_loop()
        rest = await loop.run_in_executor(self._threads, self._find)
        self._work = loop.run_in_executor(self._threads, self._remove, rest)
        await asyncio.wait([self._work], timeout=_PATIENCE)

    def stop(self) -> None:
        """What is not removed by now is left to the next start."""
        self._stopping = True
        self._threads.shutdown()

    def _find(self) -> list[tuple[str, str]]:
        """The folder and name of each. Whatever gets such a name later is somebody else's affair."""
        kinds = (("new", TAKEN), ("new", PICKUP), ("tmp", NOTICE))
        return [(folder, prefix + name) for folder, prefix in kinds for name in self._spool.hidden(folder, prefix)]

    def _remove(self, rest: list[tuple[str, str]]) -> None:
        files = self._spool.files
        for folder, name in rest:
            if self._stopping:
                return
            parent = self._spool.fd(folder)
            try:
                with tolerating(functools.partial(set_aside, files, parent, name)):
                    files.remove_tree(parent, name, lambda: not self._stopping)
            except OSError as error:  # tried again by the next start
                log("spool.failed", where=f"{folder}/{printable(name)}", error=text_of(error))
