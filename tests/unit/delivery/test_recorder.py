"""What an outcome means for a recipient whose job is about to end."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from spoold.core.outcome import deferred
from spoold.core.schedule.retry import RetryPolicy
from spoold.core.state import OnUncertain, RecipientState
from spoold.delivery.recorder import Recorder
from spoold.storage.record import DueRecipient, Message, Record

NOW, DELAY = 1_000_000.0, 60.0


class Journal:
    def __init__(self) -> None:
        self.records: list[Record] = []

    def record(self, records: list[Record]) -> "asyncio.Future[None]":
        self.records += records
        return asyncio.get_running_loop().create_future()


@pytest.mark.parametrize(
    ("expires_at", "state"),
    [
        (NOW + DELAY - 1, RecipientState.EXPIRED),
        (NOW + DELAY, RecipientState.EXPIRED),
        (NOW + DELAY + 1, RecipientState.DEFERRED),
        (None, RecipientState.DEFERRED),
    ],
    ids=["before the next try", "with it", "after it", "never"],
)
async def test_a_try_that_would_come_when_the_job_ends_or_later_never_comes(
    expires_at: float | None, state: RecipientState
) -> None:
    journal = Journal()
    recorder = Recorder("r", cast("Any", journal), lambda: NOW, lambda *_: None)
    job = SimpleNamespace(
        id=1,
        name="job",
        terms=SimpleNamespace(retry=RetryPolicy((DELAY,), 10 * DELAY), expires_at=expires_at),
        manifest=SimpleNamespace(on_uncertain=OnUncertain.RESEND),
    )
    message = Message(1, "message.eml", b"", 10, False, False, b"")
    recipient = DueRecipient(
        id=1 << 32, address="a@x.example", domain="x.example", smtputf8=False, message=message, state=RecipientState.QUEUED,
        attempts=0, first_attempt_at=None, due_at=NOW,
    )  # fmt: skip
    recorder.add(cast("Any", job), [recipient], [deferred("4.2.0", "450 later")], "mx.example")
    recorder.flush()
    (record,) = journal.records
    assert record.transition.state is state
    assert record.transition.due_at == (NOW + DELAY if state is RecipientState.DEFERRED else None)
