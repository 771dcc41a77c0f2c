"""Whose recipients are claimed next, and what comes of each claim.

The jobs in rotation take turns, each as far as the rates of agent, relay, job and domain permit. Couriers take claims here and
bring them back: as outcomes that are recorded, or unused.
"""

import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from spoold.core.schedule.planner import may_leave, may_send, wakes_at
from spoold.core.state import RecipientState
from spoold.delivery.courier import Courier
from spoold.delivery.job import LiveJob
from spoold.delivery.limiter import Limit, Limiter, room
from spoold.delivery.rotation import Rotation
from spoold.delivery.route import Routes
from spoold.storage.record import DueRecipient, Record
from spoold.tally import Limit as Limited
from spoold.tally import Tally

#: Seconds after which what a rate has counted may not leave any more: it is counted again.
_LATE = 1.0


class Claims:
    """See the module. Moments are POSIX seconds, given by `clock`.

    `jobs` are the live ones, `rotations` are by the relay that jobs name. `touch` is told that something about a job changed,
    `throttled` that it waits for its rate until a moment, `paused` that a relay waits for its own, `changed` the id of a job
    whose report is out of date.
    """

    def __init__(
        self,
        jobs: Mapping[int, LiveJob],
        rotations: Mapping[str, Rotation],
        routes: Routes,
        limiter: Limiter,
        tally: Tally,
        *,
        clock: Callable[[], float],
        touch: Callable[[LiveJob], None],
        throttled: Callable[[LiveJob, float], None],
        paused: Callable[[], None],
        changed: Callable[[int], None],
    ) -> None:
        self._jobs = jobs
        self._rotations = rotations
        self._routes = routes
        self._limiter = limiter
        self._tally = tally
        self._clock = clock
        self._touch = touch
        self._throttled = throttled
        self._paused = paused
        self._changed = changed
        self.stopping = False
        self.disk_full = False
        self.sent = 0
        """Recipients since the start."""
        self._pauses: dict[str, float] = {}

    def push(self, job: LiveJob) -> None:
        """The job has something to send."""
        self._rotations[self._routes.home(job)].push(job)

    def _any(self, courier: Courier) -> bool:
        if courier.relay.name in self._pauses:
            return False
        return any(self._rotations[home] for home in self._routes.served_by(courier))

    def waits(self, job: LiveJob, now: float) -> bool:
        """Whether only a rate keeps the job from being sent."""
        return job.throttled_until > now or self._pauses.get(self._routes.route(self._routes.home(job)), 0.0) > now

    def resumed(self, now: float) -> list[str]:
        """The relays whose pause is over."""
        over = [name for name, at in self._pauses.items() if at <= now]
        for name in over:
            del self._pauses[name]
        return over

    def resumes_at(self) -> float | None:
        """When the next relay's pause is over."""
        return min(self._pauses.values(), default=None)

    def stepped(self, back: float) -> None:
        """The clock was set, by `back` seconds (negative) where it was set back: the rates are asked anew when the next may go, and
        it goes neither later nor sooner for that.
        """
        self._limiter.shift(back)
        self._pauses.clear()

    def _next(self, courier: Courier, now: float, most: int) -> tuple[LiveJob, list[list[DueRecipient]]] | None:
        """The job whose turn it is to send through `courier`, and the recipients of its next transaction; of its next
        `most` where no other job waits and no rate counts them. None if there are none now.
        """
        shared = self._limiter.of_relay(courier.relay.name)
        if (at := self._limiter.permit(shared, now)) > now:
            self._tally.waits(Limited.RELAY, at - now)
            self._pauses[courier.relay.name] = at
            self._paused()
            return None
        for home in self._routes.served_by(courier):
            rotation = self._rotations[home]
            while (job := rotation.pop()) is not None:
                if not self.may_send(job, now):
                    continue
                limits = self._limits(job, courier)
                if (at := self._limiter.permit(limits, now)) > now:
                    self._tally.waits(Limited.JOB, at - now)
                    self._throttled(job, at)
                    continue
                claims = self._picks(job, limits, courier.limit, now, 1 if rotation else most)
                if not claims:
                    if (at_lane := job.backlog.permits_at()) is not None:
                        self._tally.waits(Limited.DOMAIN, max(at_lane - now, 0.0))
                        self._throttled(job, at_lane)
                    self._touch(job)
                    continue
                for claim in claims:
                    job.opened(claim)
                if job.backlog:
                    rotation.push(job)
                if job.is_short:
                    self._touch(job)
                return job, claims
        return None

    def _picks(self, job: LiveJob, limits: list[Limit], each: int, now: float, most: int) -> list[list[DueRecipient]]:
        """The recipients of the job's next transactions, at most `each` in one; several only where no rate counts them."""
        if not self._limits_domains(job) and not job.backlog.has_lanes:
            if not limits:
                picks = iter(functools.partial(job.backlog.pick, each), [])
                return list(itertools.islice(picks, most))
            claim = job.backlog.pick(room(limits, each))
        else:
            of = functools.partial(self._limiter.of_domain, job.id, job.terms.domain_rates)
            claim = job.backlog.pick_limited(
                room(limits, each),
                now,
                lambda domain: self._limiter.permit(of(domain), now),
                lambda domain: self._limiter.advance(of(domain), now),
            )
        self._limiter.advance(limits, now, len(claim))
        return [claim] if claim else []

    # --- for the couriers -------------------------------------------------------------------------------------------

    def has_work(self, courier: Courier) -> bool:
        """Whether a claim might succeed."""
        return not self.stopping and not self.disk_full and self._any(courier)

    def is_wanted(self, courier: Courier) -> bool:
        """Whether a live job names this relay, so that it is worth while to see if it is back."""
        return not self.stopping and any(self._routes.home(job) == courier.relay.name for job in self._jobs.values())

    def take(self, courier: Courier, most: int) -> list[tuple[LiveJob, list[DueRecipient]]]:
        """The recipients of the next transactions through `courier`, at most `most`, jobs taking turns."""
        found: list[tuple[LiveJob, list[DueRecipient]]] = []
        now = self._clock()
        while len(found) < most and not self.stopping and not self.disk_full:
            turn = self._next(courier, now, most - len(found))
            if turn is None:
                break
            job, claims = turn
            found += [(job, claim) for claim in claims]
        return found

    def used(self) -> list[tuple[str, float]]:
        """The state of the rates that changed, to be committed with the next claim."""
        return self._limiter.unsaved(self._clock())

    def may_send(self, job: LiveJob, now: float) -> bool:
        """Whether nothing but a rate forbids the job's next message at `now`; a relay that is down does not count."""
        if job.id not in self._jobs or job.cancelled or job.expired or job.ending:
            return False
        if job.free_from <= now < job.free_until:
            return True
        snapshot = job.snapshot(now, relay_up=True, relay_retry_at=None, disk_full=self.disk_full)
        if not may_send(snapshot, now):
            return False
        # While it has something at hand, nothing but the clock or an order changes that.
        job.free_from, job.free_until = now, wakes_at(snapshot, now) or math.inf
        return True

    def allowed(self, job: LiveJob, courier: Courier, waited: float) -> bool:
        """Whether a claim that was in line behind another message for `waited` seconds may leave now: asked before MAIL and before
        the body."""
        if self.stopping or self.disk_full or job.cancelled or job.held or job.expired or job.ending:
            return False
        if waited > _LATE and (self._limits_domains(job) or self._limits(job, courier)):
            # Meanwhile others may have gone in its place, and the rate would be exceeded.
            return False
        now = self._clock()
        if job.free_from <= now < job.free_until:
            return True
        return may_leave(job.snapshot(now, relay_up=True, relay_retry_at=None, disk_full=False), now)

    def _limits(self, job: LiveJob, courier: Courier) -> list[Limit]:
        """The rates of agent, relay and job."""
        return self._limiter.of_relay(courier.relay.name) + self._limiter.of_job(job.id, job.terms.rate)

    def _limits_domains(self, job: LiveJob) -> bool:
        """Whether the job, or the agent for all jobs, has rates by domain."""
        return bool(job.terms.domain_rates or self._limiter.limits.domains)

    def put_back(self, job: LiveJob, courier: Courier, claim: list[DueRecipient]) -> None:
        """No transaction was opened for these after all."""
        job.put_back(claim)
        self.unused(job, courier, claim)
        self._touch(job)

    def unused(self, job: LiveJob, courier: Courier, claim: list[DueRecipient]) -> None:
        """Nothing of the claim left: the rates that counted it count it no more."""
        self._limiter.give_back(self._limits(job, courier), len(claim))
        if self._limits_domains(job):
            for recipient in claim:
                self._limiter.give_back(self._limiter.of_domain(job.id, job.terms.domain_rates, recipient.domain), 1)

    def not_granted(self, job: LiveJob, ids: Iterable[int]) -> None:
        """The store knew better: these were sent, or claimed, already; or they are due later, by a clock that was set back."""
        job.open.difference_update(ids)
        job.due_at(self._clock())
        self._touch(job)

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
            self._touch(job)
