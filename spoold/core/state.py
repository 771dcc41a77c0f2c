"""The states of recipients and jobs (CONTRACT §5) and the transitions between them.

Times are POSIX seconds (UTC). A recipient is *sending* exactly while the store holds a claim for it; its stored state
is the one that it had before, so that a claim that came to nothing leaves no trace.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NamedTuple, Protocol

from spoold.core.outcome import Outcome, Result
from spoold.core.schedule.retry import RetryPolicy, next_attempt

#: How long an *uncertain* recipient rests before it is sent again (CONTRACT §6), seconds.
UNCERTAIN_REST = 900.0


class RecipientState(IntEnum):
    """As stored; `label` is the word that reports use."""

    QUEUED = 0
    DEFERRED = 1
    SENDING = 2
    UNCERTAIN = 3
    SENT = 4
    FAILED = 5
    EXPIRED = 6
    CANCELLED = 7

    @property
    def label(self) -> str:
        return _LABELS[self]

    @property
    def final(self) -> bool:
        return self >= RecipientState.SENT


_LABELS = {state: state.name.lower() for state in RecipientState}


class JobState(StrEnum):
    SENDING = "sending"
    SCHEDULED = "scheduled"
    WAITING = "waiting"
    HELD = "held"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    REJECTED = "rejected"

    @property
    def folder(self) -> str:
        """The folder of the spool in which a job of this state stands."""
        return _FOLDERS[self]

    @property
    def final(self) -> bool:
        return self.folder == "done"


_FOLDERS = {
    JobState.SENDING: "active",
    JobState.SCHEDULED: "deferred",
    JobState.WAITING: "deferred",
    JobState.HELD: "deferred",
    JobState.FINISHED: "done",
    JobState.CANCELLED: "done",
    JobState.REJECTED: "done",
}


class OnUncertain(StrEnum):
    RESEND = "resend"
    HOLD = "hold"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a job stands: its state, why, and the moment at which that can change by itself (None: not by itself)."""

    state: JobState
    reason: str | None = None
    next_at: float | None = None


class Progress(Protocol):
    """What the past of one recipient says about its future."""

    @property
    def state(self) -> RecipientState: ...
    @property
    def attempts(self) -> int: ...
    @property
    def first_attempt_at(self) -> float | None: ...


class Transition(NamedTuple):
    """A recipient's new state; `due_at` None means that it is not to be tried (again) by itself."""

    state: RecipientState
    attempts: int
    first_attempt_at: float | None
    due_at: float | None
    outcome: Outcome


def after_outcome(
    progress: Progress, outcome: Outcome, retry: RetryPolicy, on_uncertain: OnUncertain, now: float
) -> Transition:
    """The state that follows from one transaction's outcome."""
    if outcome.result is Result.RETURNED:
        return Transition(progress.state, progress.attempts, progress.first_attempt_at, now, outcome)
    attempts = progress.attempts + 1
    # What lies ahead was written by a clock that has been set back since.
    first = now if progress.first_attempt_at is None else min(progress.first_attempt_at, now)
    if outcome.result is Result.SENT:
        return Transition(RecipientState.SENT, attempts, first, None, outcome)

    def to(state: RecipientState, due_at: float | None = None, outcome: Outcome = outcome) -> Transition:
        return Transition(state, attempts, first, due_at, outcome)

    if outcome.result is Result.FAILED:
        return to(RecipientState.FAILED)
    if outcome.result is Result.UNCERTAIN:
        if on_uncertain is OnUncertain.HOLD:
            return to(RecipientState.UNCERTAIN)
        due_at = now + UNCERTAIN_REST
        if due_at <= first + retry.lifetime:
            return to(RecipientState.UNCERTAIN, due_at)
        return to(RecipientState.EXPIRED, None, gave_up(outcome, attempts))
    due = next_attempt(retry, attempts, first, now)
    if due is None:
        return to(RecipientState.EXPIRED, None, gave_up(outcome, attempts))
    return to(RecipientState.DEFERRED, due)


def gave_up(last: Outcome, attempts: int) -> Outcome:
    """5.4.7 (RFC 3463 §3.5): the time for trying is over; the last answer stays in the diagnostic."""
    times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
    return Outcome(
        Result.FAILED,
        "5.4.7",
        f"gave up after {times}; last: {last.diagnostic}",
        last.code,
        "message-expired",
    )
