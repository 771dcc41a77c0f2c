"""When a job would start, pause and end: the planner asked again and again, with recipients that go at the speed that binds.

No second model of windows or moments: `planner.standing` says what is possible at each moment, this only moves on to the next.
Retries are not foreseen. Moments are POSIX seconds, speeds recipients a second.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from spoold.core.schedule.planner import JobSnapshot, standing
from spoold.core.state import JobState

#: A forecast ends here at the latest, after so many pauses.
_STEPS = 3000


@dataclass(frozen=True, slots=True)
class Lane:
    """The recipients of one limited domain; the first of them may go at `permit_at`."""

    recipients: float
    speed: float
    permit_at: float = 0.0

    def due(self, at: float) -> float:
        """Seconds from `at` until the last one goes, the first going as soon as it may."""
        return max(0.0, self.permit_at - at) + (self.recipients - 1) / self.speed

    def after(self, at: float, seconds: float) -> "Lane":
        """What is left when this went on from `at` for so long."""
        begin = max(at, self.permit_at)
        gone = min(self.recipients, _gone(at + seconds - begin, self.speed))
        return Lane(self.recipients - gone, self.speed, begin + gone / self.speed)


@dataclass(frozen=True, slots=True)
class Load:
    """What a job has to send, and what binds it.

    `speed` bounds the job alone (its own rate), `shared_speed` all that goes the same way (relay, agent, or what was
    measured), of which `others` are the recipients that other jobs have queued there, one number a job. These permit the
    next one at `permit_at`. The recipients in `lanes` are among `recipients`.
    """

    recipients: float
    speed: float = math.inf
    shared_speed: float = math.inf
    others: tuple[float, ...] = ()
    lanes: tuple[Lane, ...] = ()
    permit_at: float = 0.0

    def permits_at(self) -> float:
        """From when on one more may go: that of no lane, or of the first lane where there is nothing else."""
        if not self.lanes or sum(lane.recipients for lane in self.lanes) < self.recipients:
            return self.permit_at
        return max(self.permit_at, min(lane.permit_at for lane in self.lanes))

    def due(self, at: float) -> float:
        """Seconds from `at` until the last one goes, the first going at once, while nothing closes.

        Jobs share evenly: while this one sends its n, every other sends as many, or all that it has.
        """
        ahead = self.recipients + sum(min(other, self.recipients) for other in self.others)
        times = [(self.recipients - 1) / self.speed, (ahead - 1) / self.shared_speed]
        return max(*times, *(lane.due(at) for lane in self.lanes))

    def after(self, at: float, seconds: float) -> "Load":
        """What is left when this went on from `at` for so long, less than `due`."""
        lanes = tuple(left for lane in self.lanes if (left := lane.after(at, seconds)).recipients > 0)
        in_lanes = sum(lane.recipients for lane in self.lanes)
        share = self.recipients / (self.recipients + sum(min(other, self.recipients) for other in self.others))
        speed = min(self.speed, self.shared_speed * share)
        most = _gone(seconds, speed)
        gone_in_lanes = min(in_lanes - sum(lane.recipients for lane in lanes), most)
        gone = gone_in_lanes + min(max(0.0, self.recipients - in_lanes), most - gone_in_lanes)
        others = tuple(max(0.0, other - _gone(seconds, self.shared_speed * share)) for other in self.others)
        return Load(self.recipients - gone, self.speed, self.shared_speed, others, lanes, at + gone / speed)


def _gone(seconds: float, speed: float) -> float:
    """How many go in less than so many seconds, the first at once."""
    if math.isinf(speed):
        return math.inf if seconds > 0 else 0
    return math.ceil(round(max(0.0, seconds) * speed, 6))


@dataclass(frozen=True, slots=True)
class Pause:
    """From `begin` to `end` (None: until somebody does something) nothing is sent, for `reason`."""

    begin: float
    end: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class Forecast:
    """`start` and `end` are None where they will not come by themselves; `unsent` is what expiry leaves."""

    start: float | None
    end: float | None
    pauses: Sequence[Pause]
    unsent: int = 0


def forecast(job: JobSnapshot, load: Load, now: float) -> Forecast:
    """The course of a job from `now` on."""
    start: float | None = None
    pauses: list[Pause] = []
    at = now
    if job.open:
        job = replace(job, open=0)
    for _ in range(_STEPS):
        if load.recipients <= 0:
            return Forecast(start, at, pauses)
        if job.expires_at is not None and at >= job.expires_at:
            return Forecast(start, job.expires_at, pauses, math.ceil(load.recipients))
        stands = standing(job, at)
        if stands.state is not JobState.SENDING:
            until = stands.next_at
            pauses.append(Pause(at, until, stands.reason or stands.state.value))
            if until is None:
                return Forecast(start, None, pauses)
            if stands.reason == "retry":
                job = replace(job, ready=True)
            elif stands.reason == "relay":
                job = replace(job, relay_up=True)
            at = until if job.expires_at is None else min(until, job.expires_at)
            continue
        ends = [moment for moment in (job.schedule.changes(at), job.expires_at) if moment is not None and moment > at]
        until = min(ends, default=math.inf)
        if (permit_at := load.permits_at()) > at:
            at = min(permit_at, until)
            continue
        start = at if start is None else start
        needed = load.due(at)
        if at + needed < until:
            return Forecast(start, at + needed, pauses)
        load = load.after(at, until - at)
        at = until
    return Forecast(start, None, pauses)
