"""What becomes of a job as a whole: its state, as people see it, and its end."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor

from spoold.core.schedule.planner import moment
from spoold.core.state import JobState, RecipientState, Standing
from spoold.delivery.job import LiveJob
from spoold.event import log
from spoold.storage.store import Store


class Standings:
    """See the module. `jobs` are the live ones; a job that was cancelled leaves them here.

    `clock` gives POSIX seconds; `spawn` runs a coroutine beside, `touch` is told that something about a job changed, `moved`
    the id of one whose state is another.
    """

    def __init__(
        self,
        jobs: dict[int, LiveJob],
        store: Store,
        threads: ThreadPoolExecutor,
        *,
        clock: Callable[[], float],
        spawn: Callable[[Coroutine[None, None, None]], None],
        touch: Callable[[LiveJob], None],
        moved: Callable[[int], None],
    ) -> None:
        self._jobs = jobs
        self._store = store
        self._threads = threads
        self._clock = clock
        self._spawn = spawn
        self._touch = touch
        self._moved = moved

    def end(self, job: LiveJob) -> None:
        """Give what was not sent its final state."""
        job.ending = True
        self._spawn(self._end(job))

    def expire(self, job: LiveJob) -> None:
        """Remember that the job's time is over."""
        job.expired = True
        self._spawn(self._remember_expired(job))

    def set(self, job: LiveJob, new: Standing, now: float) -> None:
        if new == job.standing:
            return
        if new.state is not job.standing.state:
            job.since = now
            next_at = None if new.next_at is None else moment(new.next_at).isoformat(timespec="seconds")
            log("job.state", job=job.name, state=new.state.value, reason=new.reason, next_at=next_at)
        job.standing = new
        self._spawn(self._stand(job, new))

    async def _stand(self, job: LiveJob, new: Standing) -> None:
        await self._store.stand(job.id, new, job.since)
        self._moved(job.id)

    async def _remember_expired(self, job: LiveJob) -> None:
        await self._store.expire(job.id)

    async def _end(self, job: LiveJob) -> None:
        """Give what was not sent its final state; the job's standing follows."""
        state = RecipientState.CANCELLED if job.cancelled else RecipientState.EXPIRED
        reason = "cancelled" if job.cancelled else "expired before it could be sent"
        while await self._store.end_unsent(job.id, state, reason):
            pass
        loop = asyncio.get_running_loop()
        row = await loop.run_in_executor(self._threads, self._store.job, job.id)
        if row is not None:
            job.counts = dict(row.counts)
        if job.cancelled:
            # What is uncertain stays so: nobody can know, and nothing more will be tried.
            now = self._clock()
            self.set(job, Standing(JobState.CANCELLED), now)
            self._jobs.pop(job.id, None)
        job.ending = False
        self._touch(job)
