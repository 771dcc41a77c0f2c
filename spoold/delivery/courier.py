"""One relay's connections: each takes claims from the dispatcher and sends them, intent first, outcome after.

The order of steps is the promise: the claim is durable before MAIL leaves; the outcome is handed to the store before
the next claim is, and the store commits in order, so no connection gets ahead of its own record by more than the
transaction that is in its data and the one next in line behind it.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Protocol

from spoold.core.fault import Fault, FaultKind
from spoold.core.outcome import Result, deferred
from spoold.core.problem import printable
from spoold.delivery.body import WHOLE, Body, BodyReader
from spoold.delivery.job import LiveJob
from spoold.delivery.line import Claim, Lines
from spoold.delivery.pool import Link, Pool, tell_error
from spoold.delivery.recorder import Recorder, tell
from spoold.event import log
from spoold.failpoint import failpoint
from spoold.smtp.concurrency import STALL, Concurrency
from spoold.smtp.health import Health
from spoold.smtp.relay import Relay
from spoold.smtp.session import BodyError, Envelope, Transaction
from spoold.storage.database import DatabaseError
from spoold.storage.journal import Journal
from spoold.storage.record import DueRecipient, Record

#: A connection that has been at its message for longer than this gets none in line behind it, in seconds.
_LONG = 2.0
#: After an error that nobody foresaw, out of memory among them, nothing is claimed for so many seconds.
_BREATH = 1.0


class Work(Protocol):
    """What a courier wants of whoever has the claims."""

    def take(self, courier: "Courier", most: int) -> list[tuple[LiveJob, list[DueRecipient]]]: ...
    def used(self) -> list[tuple[str, float]]: ...
    def has_work(self, courier: "Courier") -> bool: ...
    def is_wanted(self, courier: "Courier") -> bool: ...
    def allowed(self, job: LiveJob, courier: "Courier", waited: float) -> bool: ...
    def put_back(self, job: LiveJob, courier: "Courier", claim: list[DueRecipient]) -> None: ...
    def unused(self, job: LiveJob, courier: "Courier", claim: list[DueRecipient]) -> None: ...
    def not_granted(self, job: LiveJob, ids: list[int]) -> None: ...
    def recorded(self, job: LiveJob, records: list[Record]) -> None: ...


class Courier:
    """See the module. `limit` is how many recipients a transaction gets: as configured, or fewer if the relay says so; `changed`
    is called when the relay goes down, comes up or is found to be failing."""

    def __init__(
        self,
        relay: Relay,
        work: Work,
        journal: Journal,
        bodies: BodyReader,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        self.relay = relay
        self.limit = relay.recipients_per_message
        self._work = work
        self._journal = journal
        self._bodies = bodies
        self._clock = clock
        self._monotonic = monotonic
        self._changed = changed
        self._concurrency = Concurrency(relay.connections)
        self._pool = Pool(relay, self._concurrency, monotonic, ready=self._pump_soon, left=self._left, changed=changed)
        self._launch: asyncio.Task[None] | None = None
        self._lines = Lines()
        #: Since when, in monotonic seconds, messages and intents are waited for, None where none are.
        self.launched_at: float | None = None
        self._recorder = Recorder(relay.name, journal, clock, work.recorded)
        self._pumping = False
        self._busy = False
        self._stall: asyncio.TimerHandle | None = None
        self._breath: asyncio.TimerHandle | None = None
        self._count = 0

    # --- for the dispatcher -------------------------------------------------------------------------------------------

    @property
    def health(self) -> Health:
        return self._pool.health

    @property
    def suspicion(self) -> Fault | None:
        """What may be wrong with the relay, while a connection takes long to open."""
        return self._pool.suspicion

    @property
    def connected(self) -> int:
        """Open connections."""
        return len(self._pool.open)

    def staff(self) -> None:
        """If there is work, let the connections take it up, and open more if they are too few."""
        if not self._pool.retired and self._has_use():
            self._pump_soon()

    def rest(self) -> float | None:
        """Seconds until the relay may be tried again, None if it does not rest or nobody waits for it."""
        if self.health.up or self._pool.workers or not self._has_use():
            return None
        return max(self.health.until - self._monotonic(), 0.0)

    def _has_use(self) -> bool:
        """Whether a connection is of use: for a message, or to see whether a relay that was down is back."""
        return self._work.has_work(self) if self.health.up else self._work.is_wanted(self)

    def retire(self) -> None:
        """The relay is gone from the configuration, or has changed, or the agent stops."""
        self._pool.retire()

    async def finish(self) -> None:
        """Return when every open message has ended, and its outcome is with the store."""
        self.retire()
        while tasks := [*self._pool.workers, *([self._launch] if self._launch else [])]:
            await asyncio.wait(tasks)
        self._recorder.flush()

    def _left(self) -> None:
        self._changed() if not self.health.up else self.staff()

    def _launched(self, task: "asyncio.Task[None]") -> None:
        self._launch = self.launched_at = None
        tell_error(task, self.relay.name)
        self._pump_soon()

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
        if self._pool.retired or self._breath is not None or not self._has_use():
            self._busy = False
            return
        claims: list[Claim] = []
        try:
            if self.health.up:
                self._take(claims)
            if claims:
                failpoint("before-intent")
                ids = [id_ for claim in claims for id_ in claim.ids]
                # Asked for here, so that it shares the commit of the outcomes above.
                granting = self._journal.claim(ids, self.relay.name, self._clock(), self._work.used())
        except Exception as error:  # noqa: BLE001 - none was written: whatever it is, they are as they were
            self._give_back(claims, error, written=False)
            return
        if claims:
            self._launch = asyncio.get_running_loop().create_task(self._begin_all(claims, granting))
            self.launched_at = self._monotonic()
            self._launch.add_done_callback(self._launched)
        self._busy = self._has_use()
        if self._busy:
            self._pool.grow()
            if self._stall is None:
                self._stall = asyncio.get_running_loop().call_later(STALL, self._look_at_stall, self._count)

    def _look_at_stall(self, count: int) -> None:
        self._stall = None
        if self._busy and not self._pool.retired:
            if self._count == count:
                self._concurrency.stalled(self._monotonic())
            self._pump_soon()

    def _take(self, claims: list[Claim]) -> None:
        """Claims for the connections that have room: idle ones first, then those that can have a next in line."""
        now = self._monotonic()
        for load in (0, 1):
            room = [
                link
                for number, link in enumerate(self._pool.open)
                if link.load == load and self._has_room(link, now, surplus=number >= self._concurrency.width)
            ]
            found = self._work.take(self, len(room))
            for link, (job, recipients) in zip(room, found, strict=False):
                claims.append(Claim(link, job, recipients))
                link.load += 1
                link.since = now
                link.large = recipients[0].message.size > WHOLE
            if len(found) < len(room):
                break

    def _has_room(self, link: Link, now: float, *, surplus: bool) -> bool:
        """Whether a connection can have one more message; one that is `surplus` ends where it has none."""
        if not link.session.usable or link.ended.is_set():
            return False
        if surplus:
            if not link.load:
                link.ended.set()
            return False
        # Nobody gets in line behind what takes long.
        return not link.load or (link.session.depth > 1 and not link.large and now - link.since <= _LONG)

    async def _begin_all(self, claims: list[Claim], granting: "asyncio.Future[list[int]]") -> None:
        """Read the messages while the intents are being written, then begin."""
        trouble: Exception | None = None
        bodies: list[Body | Exception] = []
        try:
            bodies = await self._bodies.many([(claim.job.name, claim.recipients[0].message) for claim in claims])
        except Exception as error:  # noqa: BLE001 - what was granted is to be given back, whatever it is
            trouble = error
        try:
            granted = await granting
        except Exception as error:  # noqa: BLE001 - none was written
            self._give_back(claims, error, written=False)
            return
        failpoint("after-intent")
        if len(granted) < sum(len(claim.recipients) for claim in claims):
            claims = [self._granted(claim, set(granted)) for claim in claims]
        if trouble is not None:
            self._give_back(claims, trouble)
            return
        for claim, body in zip(claims, bodies, strict=True):
            try:
                self._begin(claim, body)
            except Exception as error:  # noqa: BLE001 - one claim's, and nothing of it was opened
                self._give_back([claim], error)

    def _give_back(self, claims: list[Claim], error: Exception, *, written: bool = True) -> None:
        """Nothing was opened for these, for a reason that nobody foresaw: they are as if never claimed, and the relay's other
        work goes on after a breath. `written`: the intents are in the database, or are about to be.
        """
        if not isinstance(error, DatabaseError):  # that has told of itself, and nothing can be recorded any more
            self._unforeseen(error)
        for claim in claims:
            with contextlib.suppress(DatabaseError):
                if claim.recipients:
                    if written:
                        self._journal.release(claim.ids)
                    self._work.put_back(claim.job, self, claim.recipients)
            self._pool.free(claim.link)

    def _unforeseen(self, error: Exception) -> None:
        log("agent.task_failed", where=f"relay {self.relay.name}", error=f"{type(error).__name__}: {error}")
        if self._breath is None:
            self._breath = asyncio.get_running_loop().call_later(_BREATH, self._breathe)

    def _breathe(self) -> None:
        self._breath = None
        self.staff()

    def _granted(self, claim: Claim, granted: set[int]) -> Claim:
        missing = [id_ for id_ in claim.ids if id_ not in granted]
        if not missing:
            return claim
        self._work.not_granted(claim.job, missing)
        return replace(claim, recipients=[each for each in claim.recipients if each.id in granted])

    def _begin(self, claim: Claim, body: Body | Exception) -> None:
        if not claim.recipients:
            self._pool.free(claim.link)
        elif isinstance(body, MemoryError):
            raise body
        elif isinstance(body, Exception):
            reason = str(body)
            if not isinstance(body, BodyError):
                # What nobody foresaw is temporary for the recipient, and loud.
                path = printable(claim.recipients[0].message.path)
                log("agent.task_failed", where=f"message {path} of {claim.job.name}", error=repr(body))
                reason = f"internal error: {body!r}"
            self._recorder.add(claim.job, claim.recipients, [deferred("4.3.0", reason)] * len(claim.recipients), "")
            self._pool.free(claim.link)
            self._pump_soon()
        elif not self._may_go(claim) or not claim.link.session.usable:
            self._journal.release(claim.ids)
            self._work.put_back(claim.job, self, claim.recipients)
            self._pool.free(claim.link)
        else:
            first = claim.recipients[0]
            envelope = Envelope(
                claim.job.manifest.sender,
                [recipient.address for recipient in claim.recipients],
                first.message.size,
                first.message.eight_bit,
                claim.job.manifest.sender_smtputf8 or first.smtputf8,
            )
            self._lines.enter(claim, self._monotonic())
            claim.link.session.begin(envelope, body, partial(self._done, claim), partial(self._may_go, claim))

    def _may_go(self, claim: Claim) -> bool:
        claim.withdrawn = self._pool.retired or not self._work.allowed(claim.job, self, claim.waited)
        return not claim.withdrawn

    def _done(self, claim: Claim, done: Transaction) -> None:
        self._lines.leave(claim, self._monotonic())
        if done.bug is not None:
            self._unforeseen(done.bug)
        if done.limit is not None and done.limit < self.limit:
            self.limit = max(done.limit, 1)
            log("relay.limit", relay=self.relay.name, recipients=self.limit)
        self._count += 1
        busy = done.fault is not None and done.fault.kind is FaultKind.BUSY and self._pool.others(claim.link)
        if busy or done.pushed_back:
            self._pool.pushed_back()
        if done.fault is not None:
            if not busy:
                self._pool.fault(done.fault)
        elif done.dropped is not None:
            self._pool.dropped(done.dropped)
        elif done.outcomes[0].result is not Result.RETURNED:
            self.health.worked()
            self._concurrency.ended(self._monotonic(), self.connected, busy=self._busy)
        if claim.withdrawn:
            self._work.unused(claim.job, self, claim.recipients)
        tell(claim.job, claim.recipients, done.outcomes, self.relay.name)
        self._recorder.add(claim.job, claim.recipients, done.outcomes, claim.link.session.remote_mta)
        self._pool.free(claim.link)
        self._pump_soon()
