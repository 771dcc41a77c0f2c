"""Decides with the planner which job may send when, keeps every job's next recipients at hand, and wakes the couriers.

The dispatcher sleeps until the earliest moment at which something can change and is woken by kicks; it never polls. It
holds no truth: what it knows of a job comes from the store at start and follows the store's commits.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor

from spoold.core.schedule.planner import standing, wakes_at
from spoold.core.state import JobState
from spoold.core.terms import Terms
from spoold.delivery.alarm import Alarms
from spoold.delivery.body import BodyReader
from spoold.delivery.claim import Claims
from spoold.delivery.clock import Clock
from spoold.delivery.courier import Courier
from spoold.delivery.job import LiveJob
from spoold.delivery.limiter import Limiter
from spoold.delivery.outlook import Outlook
from spoold.delivery.prefetch import Prefetch
from spoold.delivery.rotation import Rotation
from spoold.delivery.route import Routes
from spoold.delivery.standing import Standings
from spoold.event import log
from spoold.smtp.relay import Relay
from spoold.storage.database import DatabaseError
from spoold.storage.store import Store
from spoold.tally import Tally

#: The clock may be set while the dispatcher sleeps; it looks at it at least this often, in seconds.
_LONGEST_SLEEP = 20.0
#: Seconds until recipients are asked for of whom nobody knows any more when they are due.
_ASK_AGAIN = 1.0


class Dispatcher:
    """See the module. `clock` gives POSIX seconds, `monotonic` seconds that no one sets; `changed` is told the id of a job
    whose report is out of date, `moved` that of one whose state is another."""

    def __init__(
        self,
        store: Store,
        relays: Mapping[str, Relay],
        limiter: Limiter,
        bodies: BodyReader,
        threads: ThreadPoolExecutor,
        tally: Tally,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        changed: Callable[[int], None],
        moved: Callable[[int], None],
    ) -> None:
        self._store = store
        self._bodies = bodies
        self._wall = clock
        self._clock = Clock(clock, monotonic, self._stepped)
        self._monotonic = monotonic
        self._changed = changed
        self.jobs: dict[int, LiveJob] = {}
        self.couriers: dict[str, Courier] = {}
        self._rotations: defaultdict[str, Rotation] = defaultdict(Rotation)
        self._dirty: set[int] = set()
        self._kick = asyncio.Event()
        self._tasks: dict[asyncio.Task[None], float] = {}
        self._alarms = Alarms(self.jobs)
        self.routes = Routes(self.couriers, self._rotations.keys(), clock=clock, monotonic=monotonic)
        self.claims = Claims(
            self.jobs,
            self._rotations,
            self.routes,
            limiter,
            tally,
            clock=self._clock,
            touch=self.touch,
            throttled=self._throttle,
            paused=self._kick.set,
            changed=changed,
        )
        self.outlook = Outlook(self.jobs, self.routes, limiter, clock=clock, disk_full=lambda: self.claims.disk_full)
        self._standings = Standings(
            self.jobs, store, threads, clock=self._clock, spawn=self._spawn, touch=self.touch, moved=moved
        )
        self._prefetch = Prefetch(store.agenda, threads, spawn=self._spawn, touch=self.touch)
        self.use(relays)

    # --- jobs and relays come and go ------------------------------------------------------------------------------

    def use(self, relays: Mapping[str, Relay]) -> list[str]:
        """Deliver through these relays from now on; open messages end on the old ones. Returns what changed."""
        changed = []
        for name, courier in list(self.couriers.items()):
            if relays.get(name) != courier.relay:
                courier.retire()
                del self.couriers[name]
                changed.append(name)
        for name, relay in relays.items():
            if name not in self.couriers:
                self.couriers[name] = Courier(
                    relay,
                    self.claims,
                    self._store.journal,
                    self._bodies,
                    clock=self._clock,
                    monotonic=self._monotonic,
                    changed=self.relay_changed,
                )
                self._rotations.setdefault(name, Rotation())
                changed.append(name)
        self._dirty.update(self.jobs)
        self._kick.set()
        return sorted(set(changed))

    def add(self, job: LiveJob) -> None:
        """A job that is to be sent from now on."""
        self.jobs[job.id] = job
        self.touch(job)

    def begin(self, job: LiveJob) -> None:
        """One that was taken just now."""
        now = self._clock()
        if job.accepted_at > now:
            # The clock was set back while it was taken: what waits for that moment would wait for nothing.
            ahead = job.accepted_at - now
            job.stepped(now)
            self._spawn(self._ask_again(self._store.set_back(ahead, now, job.id), [job]))
        self.add(job)

    def touch(self, job: LiveJob) -> None:
        """Something about the job changed: look at it again."""
        self._dirty.add(job.id)
        self._kick.set()

    def retime(self, job: LiveJob, terms: Terms) -> None:
        """The job's timing was edited, or the agent's was."""
        job.terms = terms
        job.throttled_until = 0.0
        job.free_until = 0.0
        job.backlog.reconsider()
        self.touch(job)

    async def hold(self, job: LiveJob, held: bool) -> None:
        job.held = held
        job.free_until = 0.0
        self.touch(job)
        await self._store.hold(job.id, held)

    async def cancel(self, job: LiveJob) -> None:
        """No new message leaves from here on."""
        job.cancelled = True
        self.touch(job)
        await self._store.cancel(job.id)

    async def retry(self, job: LiveJob, *, uncertain: bool = False) -> int:
        """Make the deferred (or the uncertain) recipients due now; returns how many."""
        now = self._clock()
        count = await self._store.agenda.retry_now(job.id, now, uncertain=uncertain)
        job.due_at(now)
        self.touch(job)
        return count

    def stop(self) -> None:
        """Open no transaction any more."""
        self.claims.stopping = True
        self._kick.set()
        for courier in self.couriers.values():
            courier.staff()

    @property
    def open(self) -> int:
        """Recipients in open transactions. For any thread."""
        return sum(len(job.open) for job in list(self.jobs.values()))

    @property
    def throttled(self) -> int:
        """Jobs that could be sent now, but for a rate. For any thread."""
        now = self._wall()
        return sum(
            job.standing.state is JobState.SENDING and self.claims.waits(job, now) for job in list(self.jobs.values())
        )

    @property
    def busy_since(self) -> float | None:
        """Since when, in monotonic seconds, the database or a file is waited for by what was begun first; an open message is no
        such thing, its relay may take its time."""
        launches = [courier.launched_at for courier in self.couriers.values()]
        return min([*self._tasks.values(), *(at for at in launches if at is not None)], default=None)

    @property
    def idle(self) -> bool:
        """Nothing could be sent now, and nothing is being sent."""
        return not self._dirty and not any(
            job.standing.state is JobState.SENDING or job.ending or job.open for job in self.jobs.values()
        )

    # --- the loop ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until `stop`, then until every open message has ended."""
        while not self.claims.stopping:
            self._kick.clear()
            pause = self.step()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(pause, 0.001)):
                    await self._kick.wait()
        await asyncio.gather(*(courier.finish() for courier in list(self.couriers.values())))
        await self._settle()

    async def conclude(self) -> None:
        """After `run`, once the last outcomes are recorded: what they mean for their jobs."""
        self.step()
        await self._settle()

    async def _settle(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _wake_due(self, now: float) -> None:
        self._dirty.update(job.id for job in self._alarms.due(now))
        for name in self.claims.resumed(now):
            if name in self.couriers:
                self.couriers[name].staff()

    def step(self) -> float:
        """Look at all that changed or is due by now; returns the seconds until something is due by the clock."""
        now = self._clock()
        self._wake_due(now)
        dirty, self._dirty = self._dirty, set()
        for job_id in dirty:
            if (job := self.jobs.get(job_id)) is not None:
                self._look_at(job, now)
        pause = _LONGEST_SLEEP
        for at in (self._alarms.next(), self.claims.resumes_at()):
            if at is not None:
                pause = min(pause, at - now)
        for courier in self.couriers.values():
            courier.staff()
            if (rest := courier.rest()) is not None:
                pause = min(pause, rest)
        return pause

    def _stepped(self, by: float, now: float) -> None:
        """The clock was set by so many seconds, to `now`. Back: nobody waits longer than if it had not been; what was to be woken
        at a moment of the old clock is asked anew when that is.
        """
        self._alarms.forget()
        self.claims.stepped(min(by, 0.0))
        for job in self.jobs.values():
            job.stepped(now)
            self._dirty.add(job.id)
        self._kick.set()
        if by < 0:
            log("clock.jumped", seconds=round(by))
            self._spawn(self._ask_again(self._store.set_back(-by, now), list(self.jobs.values())))

    async def _ask_again(self, moved: "asyncio.Future[None]", jobs: list[LiveJob]) -> None:
        """Who is due is read again once the moments are moved: what was read meanwhile may be of before."""
        await moved
        for job in jobs:
            job.due_at(self._clock())
            self.touch(job)

    def _look_at(self, job: LiveJob, now: float) -> None:
        if job.ending:
            return
        if job.is_lost:
            job.due_at(now + _ASK_AGAIN)
        expires_at = job.terms.expires_at
        if expires_at is not None and expires_at <= now and not job.expired and job.unfinished:
            self._standings.expire(job)
        up, retry_at = self.routes.state(job)
        snapshot = job.snapshot(now, relay_up=up, relay_retry_at=retry_at, disk_full=self.claims.disk_full)
        if (job.expired or job.cancelled) and job.unfinished:
            job.backlog.clear()
            if not job.open:
                self._standings.end(job)
                return
        self._standings.set(job, standing(snapshot, now), now)
        if job.standing.state.final:
            del self.jobs[job.id]
            return
        # Whether its relay is up does not matter here: one that is tried again needs a message to be tried with.
        if self.claims.may_send(job, now):
            self._prefetch.refill(job, now)
            if job.backlog and job.throttled_until <= now and not job.queued:
                self.claims.push(job)
                self._wake_couriers(job)
            elif job.backlog and job.throttled_until > now:
                self._alarms.set(job, job.throttled_until)
        self._alarms.set(job, wakes_at(snapshot, now))

    def _throttle(self, job: LiveJob, until: float) -> None:
        """The job is out of the rotation until a rate permits its next message."""
        job.throttled_until = until
        self._alarms.set(job, until)
        self._kick.set()

    def fill_disk(self, full: bool) -> None:
        """The disk is full: nothing leaves that could not be recorded; or it is not any more."""
        self.claims.disk_full = full
        self.relay_changed()

    def relay_changed(self) -> None:
        """A relay went down, came up or was found to be failing: every job's standing and report may change."""
        self._dirty.update(self.jobs)
        for job_id in self.jobs:
            self._changed(job_id)
        self._kick.set()

    def _wake_couriers(self, job: LiveJob) -> None:
        route = self.routes.of(job)
        if route is not None:
            route.staff()

    # --- tasks ------------------------------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = self._monotonic()
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, DatabaseError):
            log("agent.task_failed", where="dispatcher", error=f"{type(error).__name__}: {error}")
