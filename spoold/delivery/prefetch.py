"""Reads the recipients that are due out of the store, so many ahead as a second takes, in passes from front to end.

Between two steps of a pass the database goes on: what became due behind the cursor makes for one more pass, and what was recorded
since a read began is known by its id. Whatever slips through, the store grants a claim only for what is still to be sent.
"""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor

from spoold.delivery.backlog import FIRST
from spoold.delivery.job import AHEAD, LiveJob
from spoold.storage.agenda import Agenda

#: The most that are read ahead. Twice as many are read each time that they lasted for less than `_FAST` seconds, and
#: `AHEAD` again when they lasted for `_SLOW`.
_MOST = 4000
_FAST = 1.0
_SLOW = 5.0
_LANE_READ = 150


class Prefetch:
    """See the module. `spawn` runs a coroutine beside, `touch` says that a job has more at hand."""

    def __init__(
        self,
        agenda: Agenda,
        threads: ThreadPoolExecutor,
        *,
        spawn: Callable[[Coroutine[None, None, None]], None],
        touch: Callable[[LiveJob], None],
    ) -> None:
        self._agenda = agenda
        self._threads = threads
        self._spawn = spawn
        self._touch = touch

    def refill(self, job: LiveJob, now: float) -> None:
        """Begin to read what `job` is short of, unless that is under way."""
        for domain, after in job.backlog.hungry():
            self._spawn(self._read_lane(job, now, domain, after))
        if job.reading or not job.is_short or job.backlog.full:
            return
        if job.next_due is not None and job.next_due <= now:
            job.reading = True
            lasted = now - job.read_at
            job.read_at = now
            if lasted < _FAST:
                job.ahead = min(2 * job.ahead, _MOST)
            elif lasted > _SLOW:
                job.ahead = AHEAD
            self._spawn(self._read(job, now))

    async def _read(self, job: LiveJob, now: float) -> None:
        """One step of a pass over what is due, from the front to the end."""
        loop = asyncio.get_running_loop()
        first = job.cursor == FIRST
        if first:
            job.missed = False
        known = job.open | set(job.backlog.ids())
        limit = job.ahead + (len(known) if first else 0)
        without = job.backlog.saturated
        try:
            found = await loop.run_in_executor(self._threads, self._agenda.due, job.id, now, job.cursor, limit, without)
            at_end = len(found) < limit
            next_due = await loop.run_in_executor(self._threads, self._agenda.next_due, job.id, now) if at_end else now
            # Lanes may have been filled while this was read; what they keep is known now.
            known |= job.open
            known.update(job.backlog.ids())
            if job.ending or job.cancelled or job.expired:
                return
            # What was recorded since the read began is read as it was before; the claim knows better.
            job.backlog.extend([recipient for recipient in found if recipient.id not in known])
            job.cursor = FIRST if at_end else (found[-1].due_at, found[-1].id)
            job.next_due = now if job.missed else next_due
        finally:
            job.reading = False
            self._touch(job)

    async def _read_lane(self, job: LiveJob, now: float, domain: str, after: tuple[float, int]) -> None:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, self._agenda.due_in, job.id, now, domain, after, _LANE_READ)
        known = job.open | set(job.backlog.ids())
        last = (found[-1].due_at, found[-1].id) if len(found) == _LANE_READ else None
        job.backlog.refill(domain, [recipient for recipient in found if recipient.id not in known], last=last)
        self._touch(job)
