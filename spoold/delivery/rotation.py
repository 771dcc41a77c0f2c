"""Whose turn it is: jobs of equal priority one after the other, higher priorities more often, none never.

Stride scheduling (Waldspurger and Weihl, 1995): of 21 turns that all three priorities want, high gets 16, normal 4, low 1.
"""

from collections import deque

from spoold.core.manifest import Priority
from spoold.delivery.job import LiveJob

_STRIDES = {Priority.HIGH: 1 / 16, Priority.NORMAL: 1 / 4, Priority.LOW: 1.0}


class Rotation:
    """The jobs that have something to send, each once."""

    def __init__(self) -> None:
        self._queues: dict[Priority, deque[LiveJob]] = {priority: deque() for priority in _STRIDES}
        self._passes = dict.fromkeys(_STRIDES, 0.0)
        self._now = 0.0

    def __bool__(self) -> bool:
        return any(self._queues.values())

    def push(self, job: LiveJob) -> None:
        """At the end of its priority's queue, unless it is in one already."""
        if job.queued:
            return
        job.queued = True
        priority = job.terms.priority
        if not self._queues[priority]:
            # Who had nothing to send for a while has not saved up turns.
            self._passes[priority] = max(self._passes[priority], self._now)
        self._queues[priority].append(job)

    def pop(self) -> LiveJob | None:
        """The job whose turn it is, out of the rotation."""
        waiting = [priority for priority, queue in self._queues.items() if queue]
        if not waiting:
            return None
        priority = min(waiting, key=self._passes.__getitem__)
        self._now = self._passes[priority]
        self._passes[priority] += _STRIDES[priority]
        job = self._queues[priority].popleft()
        job.queued = False
        return job
