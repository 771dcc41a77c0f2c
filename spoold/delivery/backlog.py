"""The next recipients of one job, read ahead: in one line, or beside it in lanes by domain where domains are limited.

A recipient whose domain is throttled steps aside into that domain's lane and holds up nobody. A lane keeps only so many; when it is full,
further ones stay in the database until there is room.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from spoold.storage.record import DueRecipient

#: What one lane keeps, when it asks for more, and what all lanes of a job keep.
LANE = 200
LANE_LOW = 50
LANES = 20_000

#: The start of a job's order of (due_at, id).
FIRST = (-1.0, -1)


@dataclass(slots=True)
class Lane:
    """The waiting recipients of one domain. `skipped`: more of them are in the database behind `cursor`."""

    queue: deque[DueRecipient] = field(default_factory=deque)
    skipped: bool = False
    cursor: tuple[float, int] = FIRST
    permit_at: float = 0.0
    reading: bool = False


class Backlog:
    """See the module."""

    def __init__(self) -> None:
        self._line: deque[DueRecipient] = deque()
        self._lanes: dict[str, Lane] = {}
        self._skipped: set[str] = set()
        """The domains of which the database keeps some back: of many thousand lanes there are few."""
        self._turns: list[tuple[float, str]] = []
        self._parked = 0

    def __len__(self) -> int:
        return len(self._line) + self._parked

    @property
    def short(self) -> int:
        """How many stand in the line: what reading ahead goes by."""
        return len(self._line)

    @property
    def has_lanes(self) -> bool:
        """Whether some stand aside."""
        return bool(self._lanes)

    @property
    def full(self) -> bool:
        """Whether the lanes keep so many that no more should be read."""
        return self._parked >= LANES

    @property
    def saturated(self) -> list[str]:
        """The domains of which the database keeps some back."""
        return list(self._skipped)

    def ids(self) -> Iterator[int]:
        """The ids of all that wait here."""
        for recipient in self._line:
            yield recipient.id
        for lane in self._lanes.values():
            for recipient in lane.queue:
                yield recipient.id

    def extend(self, recipients: list[DueRecipient]) -> None:
        self._line.extend(recipients)

    def refill(self, domain: str, recipients: list[DueRecipient], *, last: tuple[float, int] | None) -> None:
        """More of a lane's; `last` is where the reading stopped, None at its end."""
        lane = self._lanes.setdefault(domain, Lane())
        lane.queue.extend(recipients)
        self._parked += len(recipients)
        lane.reading = False
        lane.skipped = last is not None
        if last is not None:
            lane.cursor = last
            self._skipped.add(domain)
        else:
            self._skipped.discard(domain)
        self._take_turn(domain, lane, 0.0)

    def hungry(self) -> list[tuple[str, tuple[float, int]]]:
        """The lanes to read for, with where to begin; each is given once until its `refill`."""
        found = []
        for domain in self._skipped:
            lane = self._lanes[domain]
            if not lane.reading and len(lane.queue) < LANE_LOW:
                lane.reading = True
                found.append((domain, lane.cursor))
        return found

    def reconsider(self) -> None:
        """The rates have changed: every lane asks again when it may go."""
        for domain, lane in list(self._lanes.items()):
            self._take_turn(domain, lane, 0.0)

    def clear(self) -> None:
        self._line.clear()
        self._lanes.clear()
        self._skipped.clear()
        self._turns.clear()
        self._parked = 0

    def pick(self, most: int) -> list[DueRecipient]:
        """The next recipients that share a message, at most `most`, where no domain is limited."""
        claim: list[DueRecipient] = []
        while self._line and len(claim) < most and _fits(claim, self._line[0]):
            claim.append(self._line.popleft())
        return claim

    def pick_limited(
        self, most: int, now: float, permit: Callable[[str], float], used: Callable[[str], None]
    ) -> list[DueRecipient]:
        """The same where `permit` says when a domain may go, and `used` is told that it went."""
        claim: list[DueRecipient] = []
        while len(claim) < most:
            recipient = self._next(now, permit)
            if recipient is None or not _fits(claim, recipient):
                break
            lane = self._lanes.get(recipient.domain)
            if lane is not None and lane.queue:
                lane.queue.popleft()
                self._parked -= 1
            else:
                self._line.popleft()
            used(recipient.domain)
            claim.append(recipient)
            if lane is not None:
                self._take_turn(recipient.domain, lane, permit(recipient.domain))
        return claim

    def put_back(self, claim: list[DueRecipient]) -> None:
        """Undo a pick."""
        self._line.extendleft(reversed(claim))

    def permits_at(self) -> float | None:
        """The moment at which the next lane may go, None if no lane waits."""
        while self._turns:
            at, domain = self._turns[0]
            lane = self._lanes.get(domain)
            if lane is not None and lane.queue and lane.permit_at == at:
                return at
            heapq.heappop(self._turns)
        return None

    def _next(self, now: float, permit: Callable[[str], float]) -> DueRecipient | None:
        """The recipient whose turn it is; those in the line who must wait step aside."""
        while (at := self.permits_at()) is not None and at <= now:
            domain = self._turns[0][1]
            lane = self._lanes[domain]
            allowed = permit(domain)
            if allowed <= now:
                return lane.queue[0]
            heapq.heappop(self._turns)
            self._take_turn(domain, lane, allowed)
        while self._line and not self.full:
            recipient = self._line[0]
            beside = self._lanes.get(recipient.domain)
            allowed = permit(recipient.domain)
            if allowed <= now and (beside is None or not beside.queue):
                return recipient
            self._line.popleft()
            self._step_aside(recipient, allowed)
        return None

    def _step_aside(self, recipient: DueRecipient, allowed: float) -> None:
        lane = self._lanes.setdefault(recipient.domain, Lane())
        if lane.skipped or len(lane.queue) >= LANE:
            # Left in the database; the lane reads on from its last one.
            if not lane.skipped:
                lane.skipped = True
                self._skipped.add(recipient.domain)
                lane.cursor = (lane.queue[-1].due_at, lane.queue[-1].id)
            return
        lane.queue.append(recipient)
        self._parked += 1
        if len(lane.queue) == 1:
            self._take_turn(recipient.domain, lane, allowed)

    def _take_turn(self, domain: str, lane: Lane, at: float) -> None:
        if lane.queue:
            lane.permit_at = at
            heapq.heappush(self._turns, (at, domain))
        elif not lane.skipped:
            self._lanes.pop(domain, None)


def _fits(claim: list[DueRecipient], recipient: DueRecipient) -> bool:
    """Whether the recipient can go into the same transaction."""
    return not claim or (recipient.message.id == claim[0].message.id and recipient.smtputf8 == claim[0].smtputf8)
