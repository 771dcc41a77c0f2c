"""What delivery and intake know at this moment, as the reports of the agent want it."""

from collections.abc import Callable

from spoold.core.problem import printable
from spoold.delivery.dispatcher import Dispatcher
from spoold.intake.scan import Intake
from spoold.report.agent import RelayState, UploadState
from spoold.report.metric import Now


class Survey:
    """See the module; for any thread. `clock` gives POSIX seconds, `monotonic` seconds that no one sets."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        intake: Intake,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._dispatcher = dispatcher
        self._intake = intake
        self._clock = clock
        self._monotonic = monotonic

    @property
    def sent(self) -> int:
        """Recipients since the start."""
        return self._dispatcher.claims.sent

    @property
    def disk_full(self) -> bool:
        return self._dispatcher.claims.disk_full

    def now(self) -> Now:
        """What is under way."""
        return Now(self._dispatcher.open, self._dispatcher.throttled)

    def relays(self) -> list[RelayState]:
        """Every relay that is in use."""
        since = self._clock() - self._monotonic()
        return [
            RelayState(
                name,
                courier.relay.address,
                courier.health.up,
                courier.connected,
                None if courier.health.fault is None else str(courier.health.fault),
                None if courier.health.up else since + courier.health.until,
            )
            for name, courier in list(self._dispatcher.couriers.items())
        ]

    def uploads(self) -> list[UploadState]:
        """What stands in new/ and is not complete."""
        since = self._clock() - self._monotonic()
        return [
            UploadState(printable(upload.name), upload.waits_for or "a first look", since + upload.first_seen)
            for upload in self._intake.waiting
        ]

    def ways(self) -> dict[int, tuple[str, float]]:
        """Of each live job by id: its relay, and from when on it could be sent."""
        home = self._dispatcher.routes.home
        return {job.id: (home(job), job.sendable_from) for job in list(self._dispatcher.jobs.values())}

    def summary(self) -> str:
        """One line for the service manager."""
        jobs = list(self._dispatcher.jobs.values())
        down = [name for name, courier in self._dispatcher.couriers.items() if not courier.health.up]
        text = f"{len(jobs)} jobs, {sum(job.unfinished for job in jobs)} recipients to send, {self._dispatcher.claims.sent} sent"
        return text + (f"; relay down: {', '.join(down)}" if down else "")
