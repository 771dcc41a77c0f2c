"""Whether a relay may be used: it backs off after a fault and comes back by itself.

Moments are monotonic seconds: how long a relay rests has nothing to do with the wall clock.
"""

from dataclasses import dataclass

from spoold.core.fault import Fault, FaultKind

FIRST_REST = 2.0
LONGEST_REST = 300.0
#: So many transactions in a row that broke in the middle are the relay's fault, not the messages'.
STRIKES = 3


@dataclass(slots=True)
class Health:
    """One relay's. After a fault it rests 2, 4, 8 … up to 300 seconds, then one connection tries again."""

    fault: Fault | None = None
    until: float = 0.0
    _rest: float = 0.0
    _strikes: int = 0

    @property
    def up(self) -> bool:
        return self.fault is None

    def failed(self, fault: Fault, now: float) -> bool:
        """Rest; several connections that fail at once count once. Returns whether this is news."""
        if self.fault is not None and now < self.until:
            return False
        news = self.fault is None or self.fault.text != fault.text
        self._rest = min(max(self._rest * 2, FIRST_REST), LONGEST_REST)
        self.fault = fault
        self.until = now + self._rest
        return news

    def dropped(self, reason: str, now: float) -> bool:
        """A transaction broke in the middle. Returns whether the relay rests for it, and that is news."""
        self._strikes += 1
        if self._strikes < STRIKES:
            return False
        return self.failed(Fault(FaultKind.UNSTABLE, reason), now)

    def connected(self) -> bool:
        """A session is open and logged in. Returns whether the relay was down and is up again.

        A relay that was busy, full or unstable may well let everybody in: its rest keeps growing until it takes a
        message.
        """
        was_down = self.fault is not None
        if self.fault is not None and self.fault.kind not in (
            FaultKind.BUSY,
            FaultKind.FULL,
            FaultKind.UNSTABLE,
        ):
            self._rest = 0.0
        self.fault = None
        return was_down

    def worked(self) -> None:
        """The relay took or answered a message as it should."""
        self._rest = 0.0
        self._strikes = 0
