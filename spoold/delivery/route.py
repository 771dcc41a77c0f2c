"""Which relay serves which job: the one that it names, or a configured fallback of that one while it is down; never another."""

from collections.abc import Callable, Collection, Mapping

from spoold.core.fault import Fault
from spoold.delivery.courier import Courier
from spoold.delivery.job import LiveJob


class Routes:
    """See the module. `couriers` are the relays in use, `homes` all that jobs may name, in use or not; both change meanwhile."""

    def __init__(
        self,
        couriers: Mapping[str, Courier],
        homes: Collection[str],
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._couriers = couriers
        self._homes = homes
        self._clock = clock
        self._monotonic = monotonic

    def home(self, job: LiveJob) -> str:
        """The relay that the job names, be it in the configuration or not: nobody else decides by whom mail goes."""
        return job.manifest.relay

    def route(self, home: str) -> str:
        """The relay that serves `home` now: itself, or the first of its fallbacks that is up."""
        seen = []
        name: str | None = home
        while name is not None and name in self._couriers and name not in seen:
            seen.append(name)
            if self._couriers[name].health.up:
                return name
            name = self._couriers[name].relay.fallback
        return home

    def served_by(self, courier: Courier) -> list[str]:
        """The relays whose jobs `courier` sends now."""
        name = courier.relay.name
        if self._couriers.get(name) is not courier:
            return []
        # Its own jobs always: a relay that comes back proves it on one of them.
        return [home for home in self._homes if home == name or self.route(home) == name]

    def of(self, job: LiveJob) -> Courier | None:
        """The courier that serves the job now."""
        return self._couriers.get(self.route(self.home(job)))

    def state(self, job: LiveJob) -> tuple[bool, float | None]:
        """Whether a relay takes the job's mail now, and if not, when the next try is (POSIX seconds)."""
        route = self.of(job)
        if job.manifest.relay not in self._couriers or route is None:
            return False, None
        if route.health.up:
            return True, None
        return False, self._clock() + max(route.health.until - self._monotonic(), 0.0)

    def fault(self, job: LiveJob) -> str | None:
        """What is wrong with the job's relay and what to do, None if nothing is."""
        home = self._couriers.get(job.manifest.relay)
        if home is None:
            return gone(job.manifest.relay)
        fault: Fault | None = home.health.fault or home.suspicion
        if fault is None:
            return None
        route = self.route(job.manifest.relay)
        instead = f"; meanwhile relay {route} is used" if route != job.manifest.relay else ""
        return f"relay {job.manifest.relay}: {fault}{instead}"


def gone(relay: str) -> str:
    """What is said of a job whose relay was taken out of the configuration, and what to do."""
    return f"relay {relay} is no longer in the configuration; to do: put it back, or cancel the job"
