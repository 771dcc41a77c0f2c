"""One relay's connections: each takes claims from the dispatcher and sends them, intent first, outcome after.

The order of steps is the promise: the claim is durable before MAIL leaves; the outcome is handed to the store before
the next claim is, and the store commits in order, so no connection gets ahead of its own record by more than the
transaction that is in its data and the one next in line behind it.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from spoold.agent.body import WHOLE, Body, BodyReader
from spoold.agent.event import log
from spoold.agent.live import LiveJob
from spoold.agent.recorder import Recorder, tell
from spoold.core.outcome import Fault, FaultKind, Result, deferred
from spoold.core.problem import printable
from spoold.failpoint import failpoint
from spoold.smtp.concurrency import STALL, Concurrency
from spoold.smtp.connection import connect
from spoold.smtp.health import Health
from spoold.smtp.relay import Relay
from spoold.smtp.session import BodyError, Envelope, Session, Transaction
from spoold.storage.database import DatabaseError
from spoold.storage.journal import Journal
from spoold.storage.record import DueRecipient, Record

#: An idle connection is kept so long, in seconds: relays close theirs after 300 at the least (RFC 5321 §4.5.3.2.7).
IDLE = 10.0
#: A connection that has been at its message for longer than this gets none in line behind it, in seconds.
_LONG = 2.0
#: A connection that takes longer than this to open is reported before it fails, so that nobody waits without knowing.
SUSPECT = 3.0


class Work(Protocol):
    """What a delivery wants of the dispatcher."""

    def claim(self, delivery: "Delivery") -> tuple[LiveJob, list[DueRecipient]] | None: ...
    def used(self) -> list[tuple[str, float]]: ...
    def has_work(self, delivery: "Delivery") -> bool: ...
    def is_wanted(self, delivery: "Delivery") -> bool: ...
    def allowed(self, job: LiveJob) -> bool: ...
    def put_back(self, job: LiveJob, claim: list[DueRecipient]) -> None: ...
    def not_granted(self, job: LiveJob, ids: list[int]) -> None: ...
    def recorded(self, job: LiveJob, records: list[Record]) -> None: ...
    def relay_changed(self) -> None: ...


@dataclass(slots=True, eq=False)
class _Lane:
    """A connection; `load` counts the claims that are on their way through it."""

    session: Session
    load: int = 0
    since: float = 0.0
    """When it last became free of a message, or got its first; monotonic."""
    large: bool = False
    """The last message that it got takes a while."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class _Claim:
    """Recipients of one transaction, and the connection that they go by."""

    lane: _Lane
    job: LiveJob
    recipients: list[DueRecipient]

    @property
    def ids(self) -> list[int]:
        return [recipient.id for recipient in self.recipients]


class Delivery:
    """See the module. `limit` is how many recipients a transaction gets: as configured, or fewer if the relay says so."""

    def __init__(
        self,
        relay: Relay,
        work: Work,
        journal: Journal,
        bodies: BodyReader,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self.relay = relay
        self.health = Health()
        self.suspicion: Fault | None = None
        self.limit = relay.recipients_per_message
        self._work = work
        self._journal = journal
        self._bodies = bodies
        self._clock = clock
        self._monotonic = monotonic
        self._concurrency = Concurrency(relay.connections)
        self._lanes: list[_Lane] = []
        self._workers: set[asyncio.Task[None]] = set()
        self._launch: asyncio.Task[None] | None = None
        self._recorder = Recorder(relay.name, journal, clock, work.recorded)
        self._pumping = False
        self._busy = False
        self._retired = False
        self._sweeper: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._count = 0

    # --- for the dispatcher -------------------------------------------------------------------------------------------

    @property
    def connected(self) -> int:
        """Open connections."""
        return len(self._lanes)

    def staff(self) -> None:
        """If there is work, let the connections take it up, and open more if they are too few."""
        if not self._retired and self._has_use():
            self._pump_soon()

    def rest(self) -> float | None:
        """Seconds until the relay may be tried again, None if it does not rest or nobody waits for it."""
        if self.health.up or self._workers or not self._has_use():
            return None
        return max(self.health.until - self._monotonic(), 0.0)

    def _has_use(self) -> bool:
        """Whether a connection is of use: for a message, or to see whether a relay that was down is back."""
        return self._work.has_work(self) if self.health.up else self._work.is_wanted(self)

    def retire(self) -> None:
        """The relay is gone from the configuration, or has changed, or the agent stops."""
        self._retired = True
        self._end_idle()

    async def finish(self) -> None:
        """Return when every open message has ended, and its outcome is with the store."""
        self.retire()
        while tasks := [*self._workers, *([self._launch] if self._launch else [])]:
            await asyncio.wait(tasks)
        self._recorder.flush()

    # --- connections ------------------------------------------------------------------------------------------------

    def _grow(self) -> None:
        """Open one more connection, if the relay may have it."""
        now = self._monotonic()
        # A relay in trouble gets one connection to prove itself with, after its rest.
        most = self._concurrency.width if self.health.up else int(now >= self.health.until)
        # Four times as many at most as there are: a small job is through before a second connection would be open.
        if self._retired or len(self._workers) >= min(most, max(1, 4 * self.connected)):
            return
        task = asyncio.get_running_loop().create_task(self._serve(), name=f"relay {self.relay.name}")
        self._workers.add(task)
        task.add_done_callback(self._left)

    def _left(self, task: "asyncio.Task[None]") -> None:
        self._workers.discard(task)
        self._tell_error(task)
        self._work.relay_changed() if not self.health.up else self.staff()

    def _launched(self, task: "asyncio.Task[None]") -> None:
        self._launch = None
        self._tell_error(task)
        self._pump_soon()

    def _tell_error(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, DatabaseError):
            log("agent.task_failed", where=f"relay {self.relay.name}", error=f"{type(error).__name__}: {error}")

    async def _serve(self) -> None:
        """One connection, from its opening to its end."""
        session = await self._connect()
        if session is None:
            return
        lane = _Lane(session, since=self._monotonic())
        session.on_end = partial(self._look_at_lane, lane)
        self._lanes.append(lane)
        self._look_at_lane(lane)
        self._pump_soon()
        try:
            await lane.ended.wait()
        finally:
            self._lanes.remove(lane)
            await session.close()

    def _look_at_lane(self, lane: _Lane) -> None:
        """End a connection that is of no more use, once nothing is on its way through it."""
        if lane.load:
            return
        if not lane.session.usable or not self._usable():
            lane.ended.set()
            return
        if self._sweeper is None:
            self._sweep_in(IDLE)

    def _free(self, lane: _Lane) -> None:
        lane.load -= 1
        lane.since = self._monotonic()
        self._look_at_lane(lane)

    def _end_idle(self) -> None:
        for lane in self._lanes:
            self._look_at_lane(lane)

    def _sweep_in(self, seconds: float) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(seconds, self._sweep)

    def _sweep(self) -> None:
        """End the connections that have been idle for long."""
        self._sweeper = None
        idle = [lane for lane in self._lanes if not lane.load and not lane.ended.is_set()]
        before = self._monotonic() - IDLE + 0.01
        for lane in idle:
            if lane.since <= before:
                lane.ended.set()
        rest = [lane.since for lane in idle if lane.since > before]
        if rest:
            self._sweep_in(min(rest) - before)

    def _usable(self) -> bool:
        return not self._retired and (self.health.up or self._monotonic() >= self.health.until)

    async def _connect(self) -> Session | None:
        slow = asyncio.get_running_loop().call_later(SUSPECT, self._suspect)
        try:
            found = await connect(self.relay)
        finally:
            slow.cancel()
            self.suspicion = None
        if isinstance(found, Session):
            if self.health.connected():
                log("relay.up", relay=self.relay.name)
                self._work.relay_changed()
            return found
        if self.connected and found.kind in (FaultKind.BUSY, FaultKind.CONNECT, FaultKind.GREETING):
            # The others work: it is one connection too many, not a relay that is down.
            if self._concurrency.refused(self._monotonic(), self.connected):
                self._tell_connections()
            return None
        self._fault(found)
        return None

    def _suspect(self) -> None:
        if self.health.up and not self.connected:
            self.suspicion = Fault(FaultKind.CONNECT, f"{self.relay.address}: no answer for {SUSPECT:g} s so far")
            self._work.relay_changed()

    def _fault(self, fault: Fault) -> None:
        if self.health.failed(fault, self._monotonic()):
            log("relay.down", relay=self.relay.name, error=str(fault))
        self._end_idle()
        self._work.relay_changed()

    def _tell_connections(self) -> None:
        log("relay.connections", relay=self.relay.name, connections=self._concurrency.width)

    # --- claims -----------------------------------------------------------------------------------------------------

    def _pump_soon(self) -> None:
        """All that happens in one round of the loop is written, and made up for, together."""
        if not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        if self._launch is not None:
            return  # it pumps again when it has begun: till then what ends and what becomes free collects
        self._recorder.flush()
        if self._retired or not self._has_use():
            self._busy = False
            return
        claims = self._take() if self.health.up else []
        if claims:
            failpoint("before-intent")
            ids = [id_ for claim in claims for id_ in claim.ids]
            try:
                # Asked for here, so that it shares the commit of the outcomes above.
                granting = self._journal.claim(ids, self.relay.name, self._clock(), self._work.used())
            except DatabaseError:
                for claim in claims:
                    self._free(claim.lane)
                return
            self._launch = asyncio.get_running_loop().create_task(self._begin_all(claims, granting))
            self._launch.add_done_callback(self._launched)
        self._busy = self._has_use()
        if self._busy:
            self._grow()
            if self._stall is None:
                self._stall = asyncio.get_running_loop().call_later(STALL, self._look_at_stall, self._count)

    def _look_at_stall(self, count: int) -> None:
        self._stall = None
        if self._busy and not self._retired:
            if self._count == count:
                self._concurrency.stalled(self._monotonic())
            self._pump_soon()

    def _take(self) -> list[_Claim]:
        """Claims for the connections that have room: idle ones first, then those that can have a next in line."""
        claims: list[_Claim] = []
        now = self._monotonic()
        for load in (0, 1):
            for number, lane in enumerate(self._lanes):
                if lane.load != load or not lane.session.usable or lane.ended.is_set():
                    continue
                if number >= self._concurrency.width:
                    if not load:
                        lane.ended.set()
                    continue
                # Nobody gets in line behind what takes long.
                if load and (lane.session.depth == 1 or lane.large or now - lane.since > _LONG):
                    continue
                found = self._work.claim(self)
                if found is None:
                    return claims
                claim = _Claim(lane, *found)
                lane.load += 1
                lane.since = now
                lane.large = claim.recipients[0].message.size > WHOLE
                claims.append(claim)
        return claims

    async def _begin_all(self, claims: list[_Claim], granting: "asyncio.Future[list[int]]") -> None:
        """Read the messages while the intents are being written, then begin."""
        try:
            bodies = await self._bodies.many([(claim.job.name, claim.recipients[0].message) for claim in claims])
            granted = set(await granting)
            failpoint("after-intent")
        except BaseException:
            for claim in claims:
                self._free(claim.lane)
            raise
        for claim, body in zip(claims, bodies, strict=True):
            try:
                self._begin(self._granted(claim, granted), body)
            except DatabaseError:
                self._free(claim.lane)

    def _granted(self, claim: _Claim, granted: set[int]) -> _Claim:
        missing = [id_ for id_ in claim.ids if id_ not in granted]
        if not missing:
            return claim
        self._work.not_granted(claim.job, missing)
        return _Claim(claim.lane, claim.job, [each for each in claim.recipients if each.id in granted])

    def _begin(self, claim: _Claim, body: Body | Exception) -> None:
        if not claim.recipients:
            self._free(claim.lane)
        elif isinstance(body, Exception):
            reason = str(body)
            if not isinstance(body, BodyError):
                # What nobody foresaw is temporary for the recipient, and loud.
                path = printable(claim.recipients[0].message.path)
                log("agent.task_failed", where=f"message {path} of {claim.job.name}", error=repr(body))
                reason = f"internal error: {body!r}"
            self._recorder.add(claim.job, claim.recipients, [deferred("4.3.0", reason)] * len(claim.recipients), "")
            self._free(claim.lane)
            self._pump_soon()
        elif not self._may_go(claim.job) or not claim.lane.session.usable:
            self._journal.release(claim.ids)
            self._work.put_back(claim.job, claim.recipients)
            self._free(claim.lane)
        else:
            first = claim.recipients[0]
            envelope = Envelope(
                claim.job.manifest.sender,
                [recipient.address for recipient in claim.recipients],
                first.message.size,
                first.message.eight_bit,
                claim.job.manifest.sender_smtputf8 or first.smtputf8,
            )
            claim.lane.session.begin(envelope, body, partial(self._done, claim), partial(self._may_go, claim.job))

    def _may_go(self, job: LiveJob) -> bool:
        return not self._retired and self._work.allowed(job)

    def _done(self, claim: _Claim, done: Transaction) -> None:
        if done.bug is not None:
            log("agent.task_failed", where=f"relay {self.relay.name}", error=repr(done.bug))
        if done.limit is not None and done.limit < self.limit:
            self.limit = max(done.limit, 1)
            log("relay.limit", relay=self.relay.name, recipients=self.limit)
        now = self._monotonic()
        self._count += 1
        busy = done.fault is not None and done.fault.kind is FaultKind.BUSY and self._others(claim.lane)
        if (busy or done.pushed_back) and self._concurrency.pushed_back(now, self.connected):
            self._tell_connections()
        if done.fault is not None:
            if not busy:
                self._fault(done.fault)
        elif done.dropped is not None:
            if self.health.dropped(f"{self.relay.address}: {done.dropped}", now):
                log("relay.down", relay=self.relay.name, error=str(self.health.fault))
            if not self.health.up:
                self._end_idle()
                self._work.relay_changed()
        elif done.outcomes[0].result is not Result.RETURNED:
            self.health.worked()
            self._concurrency.ended(now, self.connected, busy=self._busy)
        tell(claim.job, claim.recipients, done.outcomes, self.relay.name)
        self._recorder.add(claim.job, claim.recipients, done.outcomes, claim.lane.session.remote_mta)
        self._free(claim.lane)
        self._pump_soon()

    def _others(self, lane: _Lane) -> bool:
        return any(other.session.usable for other in self._lanes if other is not lane)
