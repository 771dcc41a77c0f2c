"""When a job would start, pause and end: the planner asked again and again, with recipients that go at the speed that binds.

No second model of windows or moments: `planner.standing` says what is possible at each moment, this only moves on to the next.
Recipients are taken as a fluid, retries are not foreseen. Moments are POSIX seconds, speeds recipients a second.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from spoold.core.planner import JobSnapshot, standing
from spoold.core.state import JobState

#: A forecast ends here at the latest, after so many pauses.
_STEPS = 3000


@dataclass(frozen=True, slots=True)
class Load:
    """What a job has to send, and what binds it.

    `speed` bounds the job alone (its own rate), `shared_speed` all that goes the same way (relay, agent, or what was
    measured), of which `others` are the recipients that other jobs have queued there, one number a job. `lanes` are
    (recipients, speed) of the limited domains; their recipients are among `recipients`.
    """

    recipients: float
    speed: float = math.inf
    shared_speed: float = math.inf
    others: tuple[float, ...] = ()
    lanes: tuple[tuple[float, float], ...] = ()

    def duration(self) -> float:
        """Seconds until the last one goes, the first going at once, while nothing closes.

        Jobs share evenly: while this one sends its n, every other sends as many, or all that it has.
        """
        if self.recipients <= 0:
            return 0.0
        ahead = self.recipients + sum(min(other, self.recipients) for other in self.others)
        times = [(self.recipients - 1) / self.speed, (ahead - 1) / self.shared_speed]
        times += [(count - 1) / speed for count, speed in self.lanes if count > 0]
        return max(0.0, *times)

    def after(self, seconds: float) -> "Load":
        """What is left when this went on for so long, less than `duration`."""
        whole = self.duration()
        if whole <= 0:
            return replace(self, recipients=0.0, lanes=())
        lanes = tuple((max(0.0, count - seconds * speed), speed) for count, speed in self.lanes)
        in_lanes = sum(count for count, _ in self.lanes)
        share = self.recipients / (self.recipients + sum(min(other, self.recipients) for other in self.others))
        most = seconds * min(self.speed, self.shared_speed * share)
        gone_in_lanes = min(in_lanes - sum(count for count, _ in lanes), most)
        gone = gone_in_lanes + min(self.recipients - in_lanes, most - gone_in_lanes)
        others = tuple(max(0.0, other - seconds * self.shared_speed * share) for other in self.others)
        return replace(self, recipients=max(0.0, self.recipients - gone), lanes=lanes, others=others)


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
        start = at if start is None else start
        ends = [moment for moment in (job.schedule.changes(at), job.expires_at) if moment is not None and moment > at]
        until = min(ends, default=math.inf)
        needed = load.duration()
        if at + needed < until:
            return Forecast(start, at + needed, pauses) if math.isfinite(needed) else Forecast(start, None, pauses)
        load = load.after(until - at)
        at = until
    return Forecast(start, None, pauses)
