"""One relay's connections: each takes claims from the dispatcher and sends them, intent first, outcome after.

The order of steps is the promise: the claim is durable before MAIL leaves; the outcome is handed to the store before
the next claim is, and the store commits in order, so no connection gets ahead of its own record by more than one
transaction.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Protocol

from spoold.agent.body import BodyReader
from spoold.agent.event import log
from spoold.agent.live import LiveJob
from spoold.core.outcome import Fault, FaultKind, Outcome, Result, deferred
from spoold.core.problem import printable
from spoold.core.state import Progress, RecipientState, Transition, after_outcome, gave_up
from spoold.failpoint import failpoint
from spoold.smtp.connection import Relay, connect
from spoold.smtp.health import Health
from spoold.smtp.session import BodyError, Envelope, Session
from spoold.storage.database import DatabaseError
from spoold.storage.record import DueRecipient, Record
from spoold.storage.store import Store

#: An idle connection is kept so long, in seconds: relays close theirs after 300 at the least (RFC 5321 §4.5.3.2.7).
IDLE = 10.0
#: A connection that takes longer than this to open is reported before it fails, so that nobody waits without knowing.
SUSPECT = 3.0
#: How long a relay that refused one more connection is asked for no more, in seconds.
_CROWDED = 60.0


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


class Delivery:
    """See the module. `limit` is how many recipients a transaction gets: as configured, or fewer if the relay says so."""

    def __init__(
        self,
        relay: Relay,
        work: Work,
        store: Store,
        bodies: BodyReader,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self.relay = relay
        self.health = Health()
        self.suspicion: Fault | None = None
        self.limit = relay.recipients_per_message
        self.connected = 0
        self._work = work
        self._store = store
        self._bodies = bodies
        self._clock = clock
        self._monotonic = monotonic
        self._workers: set[asyncio.Task[None]] = set()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._retired = False
        self._allowed = relay.connections
        self._crowded_until = 0.0

    # --- for the dispatcher -------------------------------------------------------------------------------------------

    def staff(self) -> None:
        """If there is work, let one idle connection take it up, or open one more."""
        if self._retired or not self._has_use():
            return
        while self._idle:
            waiter = self._idle.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        now = self._monotonic()
        if now >= self._crowded_until:
            self._allowed = self.relay.connections
        # A relay in trouble gets one connection to prove itself with, after its rest.
        most = self._allowed if self.health.up else int(now >= self.health.until)
        # Twice as many at most as there are: a small job is through before a second connection would be open.
        if len(self._workers) >= min(most, max(1, 2 * self.connected)):
            return
        task = asyncio.get_running_loop().create_task(self._serve(), name=f"relay {self.relay.name}")
        self._workers.add(task)
        task.add_done_callback(self._left)

    def rest(self) -> float | None:
        """Seconds until the relay may be tried again, None if it does not rest or nobody waits for it."""
        if self.health.up or self._workers or not self._has_use():
            return None
        return max(self.health.until - self._monotonic(), 0.0)

    def _has_use(self) -> bool:
        """Whether a connection is of use: for a message, or to see whether a relay that was down is back."""
        return self._work.has_work(self) if self.health.up else self._work.is_wanted(self)

    def retire(self) -> None:
        """The relay is gone from the configuration, or has changed."""
        self._retired = True
        for waiter in self._idle:
            if not waiter.done():
                waiter.set_result(None)

    async def finish(self) -> None:
        """Return when every open message has ended."""
        self.retire()
        while self._workers:
            await asyncio.wait(self._workers)

    def _left(self, task: "asyncio.Task[None]") -> None:
        self._workers.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, DatabaseError):
            log(
                "agent.task_failed",
                where=f"relay {self.relay.name}",
                error=f"{type(error).__name__}: {error}",
            )
        self._work.relay_changed() if not self.health.up else self.staff()

    # --- one connection ---------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        session: Session | None = None
        try:
            while self._usable():
                if session is not None and not session.usable:
                    await self._leave(session)
                    session = None
                if session is None:
                    if not self._has_use():
                        return
                    session = await self._connect()
                    if session is None:
                        return
                claim = self._work.claim(self)
                if claim is None:
                    if not await self._wait():
                        return
                    continue
                self.staff()
                await self._send(session, *claim)
        finally:
            if session is not None:
                await self._leave(session)

    def _usable(self) -> bool:
        return not self._retired and (self.health.up or self._monotonic() >= self.health.until)

    async def _leave(self, session: Session) -> None:
        self.connected -= 1
        await session.close()

    async def _wait(self) -> bool:
        """Whether work came before the connection had been idle for too long."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle.append(waiter)
        try:
            async with asyncio.timeout(IDLE):
                await waiter
        except TimeoutError:
            return False
        finally:
            with contextlib.suppress(ValueError):
                self._idle.remove(waiter)
        return True

    async def _connect(self) -> Session | None:
        slow = asyncio.get_running_loop().call_later(SUSPECT, self._suspect)
        try:
            found = await connect(self.relay)
        finally:
            slow.cancel()
            self.suspicion = None
        if isinstance(found, Session):
            self.connected += 1
            if self.health.connected():
                log("relay.up", relay=self.relay.name)
                self._work.relay_changed()
            return found
        if self.connected and found.kind in (FaultKind.BUSY, FaultKind.CONNECT, FaultKind.GREETING):
            # The others work: it is one connection too many, not a relay that is down.
            self._allowed = self.connected
            self._crowded_until = self._monotonic() + _CROWDED
            log("relay.connections", relay=self.relay.name, connections=self._allowed)
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
        self._work.relay_changed()

    # --- one claim --------------------------------------------------------------------------------------------------

    async def _send(self, session: Session, job: LiveJob, claim: list[DueRecipient]) -> None:
        message = claim[0].message
        try:
            body = await self._bodies.body(job.name, message)
        except BodyError as error:
            await self._record(job, claim, [deferred("4.3.0", str(error))] * len(claim))
            return
        except Exception as error:  # noqa: BLE001 - what nobody foresaw is temporary for the recipient, and loud
            log("agent.task_failed", where=f"message {printable(message.path)} of {job.name}", error=repr(error))
            await self._record(job, claim, [deferred("4.3.0", f"internal error: {error!r}")] * len(claim))
            return
        ids = [recipient.id for recipient in claim]
        failpoint("before-intent")
        granted = set(await self._store.claim(ids, self.relay.name, self._clock(), self._work.used()))
        failpoint("after-intent")
        if len(granted) < len(ids):
            self._work.not_granted(job, [id_ for id_ in ids if id_ not in granted])
            claim = [recipient for recipient in claim if recipient.id in granted]
            if not claim:
                return
        if not self._work.allowed(job) or self._retired or not session.usable:
            await self._store.release([recipient.id for recipient in claim])
            self._work.put_back(job, claim)
            return
        envelope = Envelope(
            job.manifest.sender,
            [recipient.address for recipient in claim],
            message.size,
            message.eight_bit,
            job.manifest.sender_smtputf8 or claim[0].smtputf8,
        )
        done = await session.transact(envelope, body)
        if done.bug is not None:
            log("agent.task_failed", where=f"relay {self.relay.name}", error=repr(done.bug))
        if done.limit is not None and done.limit < self.limit:
            self.limit = max(done.limit, 1)
            log("relay.limit", relay=self.relay.name, recipients=self.limit)
        if done.fault is not None:
            self._fault(done.fault)
        elif done.dropped is not None:
            if self.health.dropped(f"{self.relay.address}: {done.dropped}", self._monotonic()):
                log("relay.down", relay=self.relay.name, error=str(self.health.fault))
            if not self.health.up:
                self._work.relay_changed()
        else:
            self.health.worked()
        self._tell(job, claim, done.outcomes, session)
        failpoint("before-outcome")
        # Not awaited: the next claim's commit comes after this one's. Only a transaction that settled everything may
        # do so.
        self._record_soon(job, claim, done.outcomes, session.remote_mta)

    async def _record(self, job: LiveJob, claim: list[DueRecipient], outcomes: list[Outcome]) -> None:
        await self._record_soon(job, claim, outcomes, "")

    def _record_soon(
        self, job: LiveJob, claim: list[DueRecipient], outcomes: list[Outcome], remote_mta: str
    ) -> "asyncio.Future[None]":
        now = self._clock()
        records = [
            Record(
                recipient,
                self._transition(job, recipient, outcome, now),
                self.relay.name,
                remote_mta,
                now,
                outcome.result is not Result.RETURNED,
            )
            for recipient, outcome in zip(claim, outcomes, strict=True)
        ]
        written = self._store.record(records)
        written.add_done_callback(lambda future: self._recorded(future, job, records))
        return written

    def _recorded(self, written: "asyncio.Future[None]", job: LiveJob, records: list[Record]) -> None:
        if written.cancelled() or written.exception() is not None:
            return  # the database has told the supervisor; the claims stay, and are *uncertain* at the next start
        failpoint("after-outcome")
        self._work.recorded(job, records)

    def _transition(self, job: LiveJob, recipient: DueRecipient, outcome: Outcome, now: float) -> Transition:
        progress = Progress(recipient.state, recipient.attempts, recipient.first_attempt_at)
        transition = after_outcome(progress, outcome, job.terms.retry, job.manifest.on_uncertain, now)
        expires_at = job.terms.expires_at
        if (
            transition.state is RecipientState.DEFERRED
            and outcome.result is not Result.RETURNED
            and expires_at is not None
            and transition.due_at is not None
            and transition.due_at >= expires_at
        ):
            # The job ends before the next try would come.
            ended = gave_up(outcome, transition.attempts)
            return Transition(RecipientState.EXPIRED, transition.attempts, transition.first_attempt_at, None, ended)
        return transition

    def _tell(self, job: LiveJob, claim: list[DueRecipient], outcomes: list[Outcome], session: Session) -> None:
        count = {result: sum(outcome.result is result for outcome in outcomes) for result in Result}
        common = {"job": job.name, "message": claim[0].message.path, "relay": self.relay.name}
        if count[Result.SENT]:
            log("message.sent", recipients=count[Result.SENT], **common)
        if count[Result.UNCERTAIN]:
            first = next(outcome for outcome in outcomes if outcome.result is Result.UNCERTAIN)
            log("message.uncertain", recipients=count[Result.UNCERTAIN], error=first.diagnostic, **common)
        if count[Result.FAILED] or count[Result.DEFERRED]:
            first = next(outcome for outcome in outcomes if outcome.result in (Result.FAILED, Result.DEFERRED))
            log(
                "message.refused", sent=count[Result.SENT], failed=count[Result.FAILED],
                deferred=count[Result.DEFERRED], reply=first.diagnostic, **common,
            )  # fmt: skip
