"""Whose recipients are claimed next: the jobs in rotation, each as far as the rates of agent, relay, job and domain permit."""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping

from spoold.core.schedule.forecast import Load
from spoold.delivery.courier import Courier
from spoold.delivery.job import LiveJob
from spoold.delivery.limiter import Limit, Limiter, room, speed
from spoold.delivery.rotation import Rotation
from spoold.delivery.route import Routes
from spoold.storage.record import DueRecipient
from spoold.tally import Limit as Limited
from spoold.tally import Tally


class Claims:
    """See the module. Moments are POSIX seconds.

    `rotations` are by the relay that jobs name. `may_send` says whether a job may at a moment, `touch` that a job ran short,
    `throttled` that it waits for its rate until a moment, `paused` that a relay waits for its own.
    """

    def __init__(
        self,
        rotations: Mapping[str, Rotation],
        routes: Routes,
        limiter: Limiter,
        tally: Tally,
        *,
        may_send: Callable[[LiveJob, float], bool],
        touch: Callable[[LiveJob], None],
        throttled: Callable[[LiveJob, float], None],
        paused: Callable[[], None],
    ) -> None:
        self._rotations = rotations
        self._routes = routes
        self._limiter = limiter
        self._tally = tally
        self._may_send = may_send
        self._touch = touch
        self._throttled = throttled
        self._paused = paused
        self._pauses: dict[str, float] = {}

    def push(self, job: LiveJob) -> None:
        """The job has something to send."""
        self._rotations[self._routes.home(job)].push(job)

    def any(self, courier: Courier) -> bool:
        """Whether a claim might succeed."""
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

    def forget_pauses(self) -> None:
        """The clock was set: the rates are asked anew."""
        self._pauses.clear()

    def next(self, courier: Courier, now: float, most: int) -> tuple[LiveJob, list[list[DueRecipient]]] | None:
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
                if not self._may_send(job, now):
                    continue
                limits = shared + self._limiter.of_job(job.id, job.terms.rate)
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
        rates = job.terms.domain_rates
        if not rates and not self._limiter.limits.domains and not job.backlog.has_lanes:
            if not limits:
                picks = iter(functools.partial(job.backlog.pick, each), [])
                return list(itertools.islice(picks, most))
            claim = job.backlog.pick(room(limits, each))
        else:
            of = functools.partial(self._limiter.of_domain, job.id, rates)
            claim = job.backlog.pick_limited(
                room(limits, each),
                now,
                lambda domain: self._limiter.permit(of(domain), now),
                lambda domain: self._limiter.advance(of(domain), now),
            )
        self._limiter.advance(limits, now, len(claim))
        return [claim] if claim else []

    def used(self, now: float) -> list[tuple[str, float]]:
        """The state of the rates that changed, to be committed with the next claim."""
        return self._limiter.unsaved(now)

    def load(
        self, job: LiveJob, sending: Iterable[LiveJob], unsent: Mapping[str, int], measured: float | None, now: float
    ) -> Load:
        """What a forecast wants to know of the job and of those that are `sending` beside it.

        `unsent` are its recipients by domain, `measured` its present speed, where one is known.
        """
        home = self._routes.home(job)
        shared_limits = self._limiter.of_relay(self._routes.route(home))
        limits = self._limiter.of_job(job.id, job.terms.rate)
        shared = speed(shared_limits)
        if math.isinf(shared) and measured:
            shared, sending = measured, ()
        return Load(
            recipients=float(job.unfinished),
            speed=speed(limits),
            shared_speed=shared,
            others=tuple(
                float(other.unfinished) for other in sending if other is not job and self._routes.home(other) == home
            ),
            lanes=self._limiter.lanes(job.id, job.terms.domain_rates, unsent, now),
            permit_at=self._limiter.permit(shared_limits + limits, now),
        )
