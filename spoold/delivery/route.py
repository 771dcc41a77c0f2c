"""Which relay serves which job: the one that it names, or a fallback while that is down."""

from collections.abc import Callable, Collection, Mapping

from spoold.core.outcome import Fault
from spoold.delivery.delivery import Delivery
from spoold.delivery.live import LiveJob


class Routes:
    """See the module. `deliveries` are the relays in use, `homes` all that jobs may still name; both change meanwhile."""

    def __init__(
        self,
        deliveries: Mapping[str, Delivery],
        homes: Collection[str],
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._deliveries = deliveries
        self._homes = homes
        self._clock = clock
        self._monotonic = monotonic

    def home(self, job: LiveJob) -> str:
        """The relay that the job names, or any where that is gone from the configuration."""
        return job.manifest.relay if job.manifest.relay in self._homes else next(iter(self._homes))

    def route(self, home: str) -> str:
        """The relay that serves `home` now: itself, or the first of its fallbacks that is up."""
        seen = []
        name: str | None = home
        while name is not None and name in self._deliveries and name not in seen:
            seen.append(name)
            if self._deliveries[name].health.up:
                return name
            name = self._deliveries[name].relay.fallback
        return home

    def served_by(self, delivery: Delivery) -> list[str]:
        """The relays whose jobs `delivery` sends now."""
        name = delivery.relay.name
        if self._deliveries.get(name) is not delivery:
            return []
        # Its own jobs always: a relay that comes back proves it on one of them.
        return [home for home in self._homes if home == name or self.route(home) == name]

    def of(self, job: LiveJob) -> Delivery | None:
        """The delivery that serves the job now."""
        return self._deliveries.get(self.route(self.home(job)))

    def state(self, job: LiveJob) -> tuple[bool, float | None]:
        """Whether a relay takes the job's mail now, and if not, when the next try is (POSIX seconds)."""
        route = self.of(job)
        if job.manifest.relay not in self._deliveries or route is None:
            return False, None
        if route.health.up:
            return True, None
        return False, self._clock() + max(route.health.until - self._monotonic(), 0.0)

    def fault(self, job: LiveJob) -> str | None:
        """What is wrong with the job's relay and what to do, None if nothing is."""
        home = self._deliveries.get(job.manifest.relay)
        if home is None:
            return (
                f"relay {job.manifest.relay} is no longer in the configuration; to do: put it back, or cancel the job"
            )
        fault: Fault | None = home.health.fault or home.suspicion
        if fault is None:
            return None
        route = self.route(job.manifest.relay)
        instead = f"; meanwhile relay {route} is used" if route != job.manifest.relay else ""
        return f"relay {job.manifest.relay}: {fault}{instead}"
