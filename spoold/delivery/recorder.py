"""What became of transactions: said in the log, and written down for all that ended in one round of the loop together."""

import asyncio
from collections.abc import Callable
from functools import partial

from spoold.core.outcome import Outcome, Result
from spoold.core.state import RecipientState, Transition, after_outcome, gave_up
from spoold.delivery.job import LiveJob
from spoold.event import log
from spoold.failpoint import failpoint
from spoold.storage.database import DatabaseError
from spoold.storage.journal import Journal
from spoold.storage.record import DueRecipient, Record


class Recorder:
    """See the module, for one relay; `recorded` is told when outcomes are durable."""

    def __init__(
        self,
        relay: str,
        journal: Journal,
        clock: Callable[[], float],
        recorded: Callable[[LiveJob, list[Record]], None],
    ) -> None:
        self._relay = relay
        self._journal = journal
        self._clock = clock
        self._recorded = recorded
        self._ended: list[tuple[LiveJob, list[DueRecipient], list[Outcome], str]] = []

    def add(self, job: LiveJob, recipients: list[DueRecipient], outcomes: list[Outcome], remote_mta: str) -> None:
        """These have ended; `flush` writes it down."""
        self._ended.append((job, recipients, outcomes, remote_mta))

    def flush(self) -> None:
        """Hand all that was added to the store, before the next claim is."""
        if not self._ended:
            return
        failpoint("before-outcome")
        ended, self._ended = self._ended, []
        now = self._clock()
        by_job: dict[int, tuple[LiveJob, list[Record]]] = {}
        everything: list[Record] = []
        last = None
        for job, recipients, outcomes, remote_mta in ended:
            if (of_job := by_job.get(job.id)) is None:
                of_job = by_job[job.id] = (job, [])
            for recipient, outcome in zip(recipients, outcomes, strict=True):
                # Most recipients of a job have the same past and the same outcome.
                past = (outcome, recipient.state, recipient.attempts, recipient.first_attempt_at, job.id)
                if past != last:
                    transition = _transition(job, recipient, outcome, now)
                    counted = outcome.result is not Result.RETURNED
                    last = past
                record = Record(recipient, transition, self._relay, remote_mta, now, counted)
                of_job[1].append(record)
                everything.append(record)
        try:
            written = self._journal.record(everything)
        except DatabaseError:
            return  # the database has told the supervisor; the claims stay, and are *uncertain* at the next start
        written.add_done_callback(partial(self._written, list(by_job.values())))

    def _written(self, by_job: list[tuple[LiveJob, list[Record]]], written: "asyncio.Future[None]") -> None:
        if written.cancelled() or written.exception() is not None:
            return  # as above
        failpoint("after-outcome")
        for job, records in by_job:
            self._recorded(job, records)


def _transition(job: LiveJob, recipient: DueRecipient, outcome: Outcome, now: float) -> Transition:
    transition = after_outcome(recipient, outcome, job.terms.retry, job.manifest.on_uncertain, now)
    expires_at = job.terms.expires_at
    if (
        transition.state is RecipientState.DEFERRED
        and outcome.result is not Result.RETURNED
        and expires_at is not None
        and transition.due_at is not None
        and transition.due_at >= expires_at
    ):
        # The job ends before the next try would come.
        ended = gave_up(outcome, transition.attempts)
        return Transition(RecipientState.EXPIRED, transition.attempts, transition.first_attempt_at, None, ended)
    return transition


def tell(job: LiveJob, recipients: list[DueRecipient], outcomes: list[Outcome], relay: str) -> None:
    """Log what came of one transaction."""
    results = [outcome.result for outcome in outcomes]
    path = recipients[0].message.path
    if sent := results.count(Result.SENT):
        log("message.sent", recipients=sent, job=job.name, message=path, relay=relay)
        if sent == len(results):
            return
    common = {"job": job.name, "message": path, "relay": relay}
    if uncertain := results.count(Result.UNCERTAIN):
        first = outcomes[results.index(Result.UNCERTAIN)]
        log("message.uncertain", recipients=uncertain, error=first.diagnostic, **common)
    failed, put_off = results.count(Result.FAILED), results.count(Result.DEFERRED)
    if failed or put_off:
        first = next(outcome for outcome in outcomes if outcome.result in (Result.FAILED, Result.DEFERRED))
        log("message.refused", sent=sent, failed=failed, deferred=put_off, reply=first.diagnostic, **common)
