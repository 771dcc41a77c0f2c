"""Memory runs out anywhere between a claim and its transaction: nobody pays for it, and the work goes on by itself."""

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from spoold.delivery import body, courier
from spoold.delivery.body import BodyReader
from spoold.smtp import session, transaction
from spoold.storage.files import Files
from spoold.storage.journal import Journal
from tests.servers.agent import Agent
from tests.servers.inprocess import capture, live
from tests.servers.relay import Relay

PLACES: dict[str, tuple[Any, str]] = {
    "messages are read": (BodyReader, "many"),
    "a message is prepared": (body, "wire"),
    "a message is hashed": (hashlib, "sha256"),
    "an intent is written": (Journal, "claim"),
    "an envelope is made": (courier, "Envelope"),
    "a transaction is made": (session, "Exchange"),
    "its first command is made": (transaction.Exchange, "opening"),
}


class Scarce:
    """A call that fails the second and the third time that it is made within `live`."""

    def __init__(self, call: Callable[..., Any], error: type[Exception]) -> None:
        self._call = call
        self._error = error
        self.calls = 0

    def __get__(self, owner: Any, kind: type | None = None) -> Callable[..., Any]:
        return lambda *arguments, **options: self(owner, *arguments, **options)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.calls += 1
        if self.calls in (2, 3):
            raise self._error
        return self._call(*arguments, **options)


#: Here any error but a lack of memory is one message's own: its recipients are deferred.
OF_ONE = ("a message is prepared", "a message is hashed", "its first command is made")


@pytest.mark.parametrize(
    ("place", "error"),
    [
        (place, error)
        for place in PLACES
        for error in (MemoryError, RuntimeError)
        if error is MemoryError or place not in OF_ONE
    ],
)
async def test_claims_are_released_and_sent_later(
    agent: Agent, relay: Relay, monkeypatch: pytest.MonkeyPatch, place: str, error: type[Exception]
) -> None:
    log = capture(monkeypatch)
    recipients = {name: [f"{name}{number}@one.example" for number in range(12)] for name in ("one", "two")}
    agent.configure(relay.port, relay={"recipients_per_message": 2, "connections": 3})
    for name, to in recipients.items():
        agent.drop(name, to)
    owner, call = PLACES[place]
    scarce = Scarce(getattr(owner, call), error)
    if place == "a message is hashed":
        # Not at intake.
        monkeypatch.setattr(body, "hashlib", type("hashlib", (), {"sha256": staticmethod(scarce)}))
    else:
        monkeypatch.setattr(owner, call, scarce)
    ended = await live(
        agent, Files(), lambda: all((agent.spool / "done" / name).is_dir() for name in recipients), timeout=20
    )
    assert ended is None
    assert scarce.calls > 3
    assert sorted(relay.recipients) == sorted(recipients["one"] + recipients["two"])
    assert error.__name__ in {
        fields["error"].partition(":")[0].partition("(")[0] for fields in log.of("agent.task_failed")
    }
    for name in recipients:
        rows = agent.recipients(name)
        assert {row["state"] for row in rows} == {"sent"}
        assert {row["attempts"] for row in rows} == {"1"}, rows
    assert relay.violations == []
