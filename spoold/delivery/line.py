"""The claims that are on their way through connections, and in which order: one in its data, the next in line behind it."""

from collections import deque
from dataclasses import dataclass

from spoold.delivery.job import LiveJob
from spoold.delivery.pool import Link
from spoold.storage.record import DueRecipient


@dataclass(slots=True, eq=False)
class Claim:
    """Recipients of one transaction, and the connection that they go by."""

    link: Link
    job: LiveJob
    recipients: list[DueRecipient]
    begun: float = 0.0
    """When it was given to the connection, monotonic seconds."""
    waited: float = 0.0
    """How long it was in line behind another message, in seconds."""
    withdrawn: bool = False
    """It was not to leave any more when its turn came."""

    @property
    def ids(self) -> list[int]:
        return [recipient.id for recipient in self.recipients]


class Lines:
    """The order on each connection. Moments are monotonic seconds."""

    def __init__(self) -> None:
        self._lines: dict[Link, deque[Claim]] = {}

    def enter(self, claim: Claim, now: float) -> None:
        """It is given to its connection, behind those that are there."""
        claim.begun = now
        self._lines.setdefault(claim.link, deque()).append(claim)

    def leave(self, claim: Claim, now: float) -> None:
        """It has ended; whoever stood behind it is the next."""
        line = self._lines[claim.link]
        was_first = line[0] is claim
        line.remove(claim)
        if not line:
            del self._lines[claim.link]
        elif was_first:
            line[0].waited = now - line[0].begun
