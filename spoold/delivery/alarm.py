"""When the dispatcher looks at each job again by itself: the earliest moment at which something can change for it."""

import heapq
from collections.abc import Iterator, Mapping

from spoold.delivery.job import LiveJob


class Alarms:
    """See the module. Moments are POSIX seconds; `jobs` are the live ones."""

    def __init__(self, jobs: Mapping[int, LiveJob]) -> None:
        self._jobs = jobs
        self._heap: list[tuple[float, int]] = []

    def set(self, job: LiveJob, at: float | None) -> None:
        """Look at the job at this moment, unless that is earlier anyhow."""
        if at is None or (job.wake_at is not None and job.wake_at <= at):
            return
        job.wake_at = at
        heapq.heappush(self._heap, (at, job.id))
        if len(self._heap) > 4 * len(self._jobs) + 100:
            # Most are of times that were replaced by earlier ones.
            self._heap = [(job.wake_at, job.id) for job in self._jobs.values() if job.wake_at is not None]
            heapq.heapify(self._heap)

    def due(self, now: float) -> Iterator[LiveJob]:
        """The jobs whose moment has come; each is told once."""
        while self._heap and self._heap[0][0] <= now:
            at, job_id = heapq.heappop(self._heap)
            job = self._jobs.get(job_id)
            if job is not None and job.wake_at == at:  # else it has been told another time since
                job.wake_at = None
                yield job

    def next(self) -> float | None:
        """The earliest moment."""
        return self._heap[0][0] if self._heap else None

    def forget(self) -> None:
        """The clock was set: what was to be done at a moment of the old one is asked anew."""
        self._heap.clear()
        for job in self._jobs.values():
            job.wake_at = None
