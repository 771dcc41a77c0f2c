"""When a live job would start, pause and end, as things stand with its windows, its rates, its relay and the other jobs."""

import math
from collections.abc import Callable, Iterable, Mapping

from spoold.core.schedule.forecast import Forecast, Load, forecast
from spoold.core.state import JobState
from spoold.delivery.job import LiveJob
from spoold.delivery.limiter import Limiter, speed
from spoold.delivery.route import Routes


class Outlook:
    """See the module; for any thread. `jobs` are the live ones, `clock` gives POSIX seconds."""

    def __init__(
        self,
        jobs: Mapping[int, LiveJob],
        routes: Routes,
        limiter: Limiter,
        *,
        clock: Callable[[], float],
        disk_full: Callable[[], bool],
    ) -> None:
        self._jobs = jobs
        self._routes = routes
        self._limiter = limiter
        self._clock = clock
        self._disk_full = disk_full

    def forecast(self, job: LiveJob, unsent: Mapping[str, int], measured: float | None) -> Forecast:
        """When the job would start, pause and end; `measured` is its present speed, where one is known."""
        now = self._clock()
        up, retry_at = self._routes.state(job)
        snapshot = job.snapshot(now, relay_up=up, relay_retry_at=retry_at, disk_full=self._disk_full())
        sending = [other for other in list(self._jobs.values()) if other.standing.state is JobState.SENDING]
        load = self._load(job, sending, unsent, measured, now)
        return forecast(snapshot, load, now)

    def _load(
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
