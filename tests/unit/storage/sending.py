"""What delivery does to a store: asks who is due, and records what became of them."""

from spoold.core.outcome import Outcome, Result, deferred, failed, returned, unknown
from spoold.core.schedule.retry import RetryPolicy
from spoold.core.state import OnUncertain, after_outcome
from spoold.storage.record import DueRecipient, Record
from spoold.storage.store import Store
from tests.unit.storage.admitting import NOW

#: Where a list of those who are due begins.
FIRST = (-1.0, -1)
#: A second attempt after a minute, none that begins after two and a half.
RETRY = RetryPolicy((60.0,), 150.0)
OUTCOMES = {
    "sent": Outcome(Result.SENT, "2.0.0", "250 ok", 250),
    "failed": failed("5.1.1", "550 no such user"),
    "deferred": deferred("4.2.0", "450 later"),
    "uncertain": unknown("the connection broke"),
    "returned": returned("the relay is down"),
}
SENT = OUTCOMES["sent"]


def due(store: Store, job_id: int, now: float = NOW, *, most: int = 1000) -> list[DueRecipient]:
    return store.agenda.due(job_id, now, FIRST, most)


def record(
    recipient: DueRecipient, outcome: Outcome = SENT, now: float = NOW, hold: bool = False, retry: RetryPolicy = RETRY
) -> Record:
    """The record of an attempt that ended so; with `hold` a recipient in doubt waits for a person."""
    on_uncertain = OnUncertain.HOLD if hold else OnUncertain.RESEND
    transition = after_outcome(recipient, outcome, retry, on_uncertain, now)
    return Record(recipient, transition, "default", "mx.example", now, outcome.result is not Result.RETURNED)
