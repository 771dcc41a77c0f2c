"""What a job may do now, and when that changes: a function of a snapshot and `now`.

Times are POSIX seconds (UTC). The planner knows no job names, no database and no relay; it is told what holds.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from spoold.core.schedule.window import Windows, next_close, next_open
from spoold.core.state import JobState, Standing


@dataclass(frozen=True, slots=True)
class Schedule:
    """The intersection of weekly windows, each in its own zone; without any, always open. Moments are POSIX seconds."""

    parts: tuple[tuple[Windows, ZoneInfo], ...] = ()

    def is_open(self, now: float) -> bool:
        return not self.parts or self.opens(now) == now

    def opens(self, now: float) -> float | None:
        """The first moment from `now` on at which all windows are open, None if there is none."""
        if not self.parts:
            return now
        at = moment(now)
        found = next_open(self.parts, at)
        if found is None:
            return None
        return now if found == at else found.timestamp()

    def changes(self, now: float) -> float | None:
        """The next moment at which the schedule opens or closes, None if never."""
        if not self.parts:
            return None
        if not self.is_open(now):
            return self.opens(now)
        found = next_close(self.parts, moment(now))
        return None if found is None else found.timestamp()


@dataclass(frozen=True, slots=True)
class JobSnapshot:
    """All that decides where a job stands."""

    unfinished: int
    """Recipients without a final state, those in open transactions included."""
    open: int
    """Recipients in open transactions."""
    ready: bool
    """A recipient is due now and in no open transaction."""
    next_due: float | None
    """The next moment at which a recipient is due, None where none is."""
    held: bool = False
    cancelled: bool = False
    send_after: float | None = None
    expires_at: float | None = None
    schedule: Schedule = Schedule()
    relay_up: bool = True
    relay_retry_at: float | None = None
    disk_full: bool = False
    uncertain: int = 0
    """Recipients of whom nobody can know whether they were sent to."""


def standing(job: JobSnapshot, now: float) -> Standing:
    """Where the job stands at `now`. An open transaction keeps it in `sending` until it has ended."""
    if job.unfinished == 0:
        return Standing(JobState.CANCELLED if job.cancelled else JobState.FINISHED)
    if job.cancelled:
        if job.open:
            return Standing(JobState.SENDING, "cancelling: the open messages end first")
        return Standing(JobState.CANCELLED)
    if job.open:
        return Standing(JobState.SENDING, "holding: the open messages end first" if job.held else None)
    blocked = _blocked(job, now)
    if blocked is not None:
        return blocked
    if job.ready:
        return Standing(JobState.SENDING)
    if job.next_due is not None:
        return Standing(JobState.WAITING, "retry", job.next_due)
    if job.uncertain < job.unfinished:
        # Somebody is to be sent to, and when is not known here: whoever asks finds out.
        return Standing(JobState.SENDING)
    return Standing(JobState.HELD, "uncertain")


def may_send(job: JobSnapshot, now: float) -> bool:
    """Whether a new transaction may be opened for the job now."""
    return job.unfinished > 0 and not job.cancelled and job.ready and _blocked(job, now) is None


def may_leave(job: JobSnapshot, now: float) -> bool:
    """Whether a message that was made ready for the job earlier may leave now."""
    if job.cancelled or (job.expires_at is not None and job.expires_at <= now):
        return False
    return _blocked(job, now) is None


def _blocked(job: JobSnapshot, now: float) -> Standing | None:
    if job.held:
        return Standing(JobState.HELD)
    if job.send_after is not None and now < job.send_after:
        return Standing(JobState.SCHEDULED, None, job.schedule.opens(job.send_after))
    if not job.schedule.is_open(now):
        return Standing(JobState.WAITING, "window", job.schedule.opens(now))
    if job.disk_full:
        return Standing(JobState.WAITING, "disk")
    if not job.relay_up and job.ready:
        return Standing(JobState.WAITING, "relay", job.relay_retry_at)
    return None


def wakes_at(job: JobSnapshot, now: float) -> float | None:
    """The earliest moment after `now` at which the job's standing can change by the clock alone."""
    moments = [job.expires_at, job.send_after, job.next_due, job.schedule.changes(now)]
    if not job.relay_up:
        moments.append(job.relay_retry_at)
    ahead = [moment for moment in moments if moment is not None and moment > now]
    return min(ahead, default=None)


def moment(seconds: float) -> datetime:
    """POSIX seconds as an aware moment."""
    return datetime.fromtimestamp(seconds, UTC)
