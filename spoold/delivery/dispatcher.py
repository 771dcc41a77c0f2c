"""Decides with the planner which job may send when, keeps every job's next recipients at hand, and wakes the couriers.

The dispatcher sleeps until the earliest moment at which something can change and is woken by kicks; it never polls. It
holds no truth: what it knows of a job comes from the store at start and follows the store's commits.
"""

import asyncio
import contextlib
import heapq
import math
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from spoold.core.schedule.forecast import Forecast, forecast
from spoold.core.schedule.planner import may_send, moment, standing, wakes_at
from spoold.core.state import JobState, RecipientState, Standing
from spoold.core.terms import Terms
from spoold.delivery.body import BodyReader
from spoold.delivery.claim import Claims
from spoold.delivery.courier import Courier
from spoold.delivery.job import LiveJob
from spoold.delivery.limiter import Limiter
from spoold.delivery.prefetch import Prefetch
from spoold.delivery.rotation import Rotation
from spoold.delivery.route import Routes
from spoold.event import log
from spoold.smtp.relay import Relay
from spoold.storage.database import DatabaseError
from spoold.storage.record import DueRecipient, Record
from spoold.storage.store import Store
from spoold.tally import Tally

#: The clock may be set while the dispatcher sleeps; it looks at it at least this often, in seconds.
_LONGEST_SLEEP = 20.0
_JUMP = 60.0


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
        self._threads = threads
        self._tally = tally
        self._clock = clock
        self._monotonic = monotonic
        self._changed = changed
        self._moved = moved
        self.jobs: dict[int, LiveJob] = {}
        self.couriers: dict[str, Courier] = {}
        self._rotation: dict[str, Rotation] = {}
        self._dirty: set[int] = set()
        self._wakes: list[tuple[float, int]] = []
        self._kick = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._offset = clock() - monotonic()
        self.disk_full = False
        self.stopping = False
        self.sent = 0
        self.routes = Routes(self.couriers, self._rotation.keys(), clock=clock, monotonic=monotonic)
        self._claims = Claims(
            self._rotation,
            self.routes,
            limiter,
            tally,
            may_send=self._may_send,
            touch=self.touch,
            throttled=self._throttle,
            paused=self._kick.set,
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
                    relay, self, self._store.journal, self._bodies, self._clock, self._monotonic
                )
                self._rotation.setdefault(name, Rotation())
                changed.append(name)
        self._dirty.update(self.jobs)
        self._kick.set()
        return sorted(set(changed))

    def add(self, job: LiveJob) -> None:
        self.jobs[job.id] = job
        self.touch(job)

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
        self.stopping = True
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
        now = self._clock()
        return sum(
            job.standing.state is JobState.SENDING and self._claims.waits(job, now) for job in list(self.jobs.values())
        )

    @property
    def idle(self) -> bool:
        """Nothing could be sent now, and nothing is being sent."""
        return not self._dirty and not any(
            job.standing.state is JobState.SENDING or job.ending or job.open for job in self.jobs.values()
        )

    # --- the loop ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until `stop`, then until every open message has ended."""
        while not self.stopping:
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
        while self._wakes and self._wakes[0][0] <= now:
            at, job_id = heapq.heappop(self._wakes)
            job = self.jobs.get(job_id)
            if job is not None and job.wake_at == at:  # else it has been told another time since
                job.wake_at = None
                self._dirty.add(job_id)
        for name in self._claims.resumed(now):
            if name in self.couriers:
                self.couriers[name].staff()

    def _wake_at(self, job: LiveJob, at: float | None) -> None:
        if at is None or (job.wake_at is not None and job.wake_at <= at):
            return
        job.wake_at = at
        heapq.heappush(self._wakes, (at, job.id))
        if len(self._wakes) > 4 * len(self.jobs) + 100:
            # Most are of times that were replaced by earlier ones.
            self._wakes = [(job.wake_at, job.id) for job in self.jobs.values() if job.wake_at is not None]
            heapq.heapify(self._wakes)

    def step(self) -> float:
        """Look at all that changed or is due by now; returns the seconds until something is due by the clock."""
        self._look_at_clock()
        now = self._clock()
        self._wake_due(now)
        dirty, self._dirty = self._dirty, set()
        for job_id in dirty:
            if (job := self.jobs.get(job_id)) is not None:
                self._look_at(job, now)
        pause = _LONGEST_SLEEP
        if self._wakes:
            pause = min(pause, self._wakes[0][0] - now)
        if (resumes_at := self._claims.resumes_at()) is not None:
            pause = min(pause, resumes_at - now)
        for courier in self.couriers.values():
            courier.staff()
            if (rest := courier.rest()) is not None:
                pause = min(pause, rest)
        return pause

    def _look_at_clock(self) -> None:
        """After the clock was set back, nobody waits longer than if it had not been.

        What was to be woken at a moment of the old clock is asked anew when that is.
        """
        offset = self._clock() - self._monotonic()
        jumped, self._offset = offset - self._offset, offset
        if abs(jumped) < _JUMP:
            return
        self._wakes.clear()
        self._claims.forget_pauses()
        for job in self.jobs.values():
            job.wake_at = None
            job.throttled_until = 0.0
            job.free_until = 0.0
            job.backlog.reconsider()
        self._dirty.update(self.jobs)
        if jumped < 0:
            log("clock.jumped", seconds=round(jumped))
            self._spawn(self._remember_clock(self._clock() - jumped))
            for job in self.jobs.values():
                self._spawn(self._shift_waits(job, jumped))

    async def _remember_clock(self, until: float) -> None:
        await self._store.remember_clock(until)

    async def _shift_waits(self, job: LiveJob, by: float) -> None:
        if await self._store.agenda.shift_due(job.id, self._clock(), by):
            job.due_at(self._clock())
            self.touch(job)

    def _look_at(self, job: LiveJob, now: float) -> None:
        if job.ending:
            return
        expires_at = job.terms.expires_at
        if expires_at is not None and expires_at <= now and not job.expired and job.unfinished:
            job.expired = True
            self._spawn(self._remember_expired(job))
        up, retry_at = self.routes.state(job)
        snapshot = job.snapshot(now, relay_up=up, relay_retry_at=retry_at, disk_full=self.disk_full)
        if (job.expired or job.cancelled) and job.unfinished:
            job.backlog.clear()
            if not job.open:
                job.ending = True
                self._spawn(self._end(job))
                return
        self._set_standing(job, standing(snapshot, now), now)
        if job.standing.state.final:
            del self.jobs[job.id]
            return
        # Whether its relay is up does not matter here: one that is tried again needs a message to be tried with.
        if self._may_send(job, now):
            self._prefetch.refill(job, now)
            if job.backlog and job.throttled_until <= now and not job.queued:
                self._claims.push(job)
                self._wake_couriers(job)
            elif job.backlog and job.throttled_until > now:
                self._wake_at(job, job.throttled_until)
        self._wake_at(job, wakes_at(snapshot, now))

    def _set_standing(self, job: LiveJob, new: Standing, now: float) -> None:
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
            self._set_standing(job, Standing(JobState.CANCELLED), now)
            self.jobs.pop(job.id, None)
        job.ending = False
        self.touch(job)

    # --- for the couriers -------------------------------------------------------------------------------------------

    def claims(self, courier: Courier, most: int) -> list[tuple[LiveJob, list[DueRecipient]]]:
        """The recipients of the next transactions through `courier`, at most `most`, jobs taking turns."""
        found: list[tuple[LiveJob, list[DueRecipient]]] = []
        now = self._clock()
        while len(found) < most and not self.stopping and not self.disk_full:
            turn = self._claims.next(courier, now, most - len(found))
            if turn is None:
                break
            job, claims = turn
            found += [(job, claim) for claim in claims]
        return found

    def _throttle(self, job: LiveJob, until: float) -> None:
        """The job is out of the rotation until a rate permits its next message."""
        job.throttled_until = until
        self._wake_at(job, until)
        self._kick.set()

    def used(self) -> list[tuple[str, float]]:
        """The state of the rates that changed, to be committed with the next claim."""
        return self._claims.used(self._clock())

    def has_work(self, courier: Courier) -> bool:
        """Whether a claim might succeed."""
        return not self.stopping and not self.disk_full and self._claims.any(courier)

    def is_wanted(self, courier: Courier) -> bool:
        """Whether a live job names this relay, so that it is worth while to see if it is back."""
        return not self.stopping and any(self.routes.home(job) == courier.relay.name for job in self.jobs.values())

    def _may_send(self, job: LiveJob, now: float) -> bool:
        if job.id not in self.jobs or job.cancelled or job.expired or job.ending:
            return False
        if job.free_from <= now < job.free_until:
            return True
        snapshot = job.snapshot(now, relay_up=True, relay_retry_at=None, disk_full=self.disk_full)
        if not may_send(snapshot, now):
            return False
        # While it has something at hand, nothing but the clock or an order changes that.
        job.free_from, job.free_until = now, wakes_at(snapshot, now) or math.inf
        return True

    def allowed(self, job: LiveJob) -> bool:
        """Whether a claim that was made may still become a transaction."""
        return not self.stopping and not job.cancelled and not job.held and not job.expired and not self.disk_full

    def put_back(self, job: LiveJob, claim: list[DueRecipient]) -> None:
        job.put_back(claim)
        self.touch(job)

    def not_granted(self, job: LiveJob, ids: Iterable[int]) -> None:
        """The store knew better: these were sent, or claimed, already."""
        job.open.difference_update(ids)
        self.touch(job)

    def recorded(self, job: LiveJob, records: list[Record]) -> None:
        """Outcomes are durable."""
        self._tally.recorded(records, job.sendable_from)
        job.open.difference_update([record.recipient.id for record in records])
        moves = Counter([(record.recipient.state, record.transition.state) for record in records if record.counted])
        for (before, after), count in moves.items():
            job.counts[before] = job.counts.get(before, 0) - count
            job.counts[after] = job.counts.get(after, 0) + count
            if after is RecipientState.SENT:
                self.sent += count
        dues = [record.transition.due_at for record in records if record.transition.due_at is not None]
        if dues:
            job.due_at(min(dues))
        self._changed(job.id)
        if not job.open or job.is_short:
            self.touch(job)

    def relay_changed(self) -> None:
        """A relay went down, came up or was found to be failing: every job's standing and report may change."""
        self._dirty.update(self.jobs)
        for job_id in self.jobs:
            self._changed(job_id)
        self._kick.set()

    def forecast(self, job: LiveJob, unsent: Mapping[str, int], measured: float | None) -> Forecast:
        """When the job would start, pause and end; `measured` is its present speed, where one is known."""
        now = self._clock()
        up, retry_at = self.routes.state(job)
        snapshot = job.snapshot(now, relay_up=up, relay_retry_at=retry_at, disk_full=self.disk_full)
        sending = [other for other in list(self.jobs.values()) if other.standing.state is JobState.SENDING]
        load = self._claims.load(job, sending, unsent, measured, now)
        return forecast(snapshot, load, now)

    def _wake_couriers(self, job: LiveJob) -> None:
        route = self.routes.of(job)
        if route is not None:
            route.staff()

    # --- tasks ------------------------------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, DatabaseError):
            log("agent.task_failed", where="dispatcher", error=f"{type(error).__name__}: {error}")
