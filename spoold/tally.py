"""What the agent counts while it works: plain numbers, a few additions a batch; they become metrics when the file is written.

They begin at nothing with each start, as Prometheus' counters may. Each number is changed by one thread only, or under the lock.
"""

import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from spoold.core.state import JobState, RecipientState
from spoold.event import dropped
from spoold.storage.record import Record

#: What an attempt may end in; the words are those of attempts.jsonl.
RESULTS = (
    RecipientState.SENT,
    RecipientState.FAILED,
    RecipientState.DEFERRED,
    RecipientState.UNCERTAIN,
    RecipientState.EXPIRED,
)
_DELAYS = (0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 43200.0, 86400.0, 259200.0, 432000.0)
_COMMITS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class Limit(StrEnum):
    """What a rate makes wait: all that goes by a relay (its rate, or the agent's), a job, or a job's recipients in a domain."""

    RELAY = "relay"
    JOB = "job"
    DOMAIN = "domain"


class Taken(StrEnum):
    """What became of an upload that was taken."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    DUPLICATE = "duplicate"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many values fell into each bucket: `counts` has one more than `bounds`, what was above the last; `total` is their sum."""

    bounds: Sequence[float]
    counts: Sequence[int]
    total: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What the agent counted since its start. `delays` are by relay, in seconds from when a job could first be sent;
    `waits` by the rate's kind: how often, and for how many seconds in all; `intake` counts uploads by result; `reports` are
    the CPU seconds that writing them took; `unlogged` are lines of the log that were dropped."""

    attempts: Mapping[tuple[str, RecipientState], int]
    delays: Mapping[str, Histogram]
    waits: Mapping[str, tuple[int, float]]
    intake: Mapping[str, int]
    accepted: int
    commits: Histogram
    reports: float
    unlogged: int


class _Distribution:
    """A histogram that grows."""

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def add(self, value: float, n: int = 1) -> None:
        self._counts[bisect_left(self._bounds, value)] += n
        self._total += value * n

    def histogram(self) -> Histogram:
        return Histogram(self._bounds, tuple(self._counts), self._total)


class Tally:
    """See the module. Spans are in seconds, moments POSIX seconds."""

    def __init__(self) -> None:
        self._attempts: dict[str, list[int]] = {}
        self._delays: dict[str, _Distribution] = {}
        self._waits = {limit: [0, 0.0] for limit in Limit}
        self._taken = dict.fromkeys(Taken, 0)
        self._accepted = 0
        self._commits = _Distribution(_COMMITS)
        self._reports = 0.0
        self._lock = threading.Lock()

    def recorded(self, records: Sequence[Record], since: float) -> None:
        """Attempts of one job through one relay, recorded together; the job could be sent `since`. For the event loop."""
        states = [record.transition.state for record in records if record.counted]
        if not states:
            return
        relay, at = records[0].relay, records[0].at
        attempts = self._attempts.get(relay)
        if attempts is None:
            attempts = self._attempts[relay] = [0] * len(RecipientState)
            self._delays[relay] = _Distribution(_DELAYS)
        for state in set(states):
            attempts[state] += states.count(state)
        if sent := states.count(RecipientState.SENT):
            self._delays[relay].add(max(at - since, 0.0), sent)

    def waits(self, limit: Limit, seconds: float) -> None:
        """A rate makes something wait for so long. For the event loop."""
        found = self._waits[limit]
        found[0] += 1
        found[1] += seconds

    def took(self, state: JobState, reason: str | None, recipients: int) -> None:
        """An upload was taken, and is a job in this state for this reason. For any thread."""
        result = Taken.ACCEPTED
        if state is JobState.REJECTED:
            result = Taken.DUPLICATE if (reason or "").startswith("duplicate of ") else Taken.REJECTED
        elif state is JobState.CANCELLED:
            result = Taken.CANCELLED
        with self._lock:
            self._taken[result] += 1
            if result is Taken.ACCEPTED:
                self._accepted += recipients

    def committed(self, seconds: float) -> None:
        """A commit took so long. For the database's thread."""
        self._commits.add(seconds)

    def reported(self, seconds: float) -> None:
        """Writing reports took so much CPU. For any thread."""
        with self._lock:
            self._reports += seconds

    def figures(self, relays: Iterable[str]) -> Figures:
        """All of it as it is now, of these relays even where there is nothing yet. For any thread."""
        delays = dict(self._delays)
        none = _Distribution(_DELAYS)
        return Figures(
            attempts={
                (relay, state): counts[state] for relay, counts in dict(self._attempts).items() for state in RESULTS
            },
            delays={relay: delays.get(relay, none).histogram() for relay in sorted({*relays, *delays})},
            waits={limit.value: (int(count), seconds) for limit, (count, seconds) in self._waits.items()},
            intake={result.value: count for result, count in self._taken.items()},
            accepted=self._accepted,
            commits=self._commits.histogram(),
            reports=self._reports,
            unlogged=dropped(),
        )
