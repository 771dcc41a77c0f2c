"""The rates that bind right now: of the agent, of each relay, of each job, and of recipients' domains.

All that apply must permit. A rate's whole state is one number a key; the numbers that changed are written in the same commit as the
claim that used them, so that neither restart nor crash gives a second burst.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from spoold.core.schedule.forecast import Lane
from spoold.core.schedule.rate import Rate, advance, permit_at

#: A key and its rate.
Limit = tuple[str, Rate]

_MANY = 10_000


@dataclass(frozen=True, slots=True)
class Limits:
    """The configuration's: of the whole agent, of relays by name, of domains (`*` for every other one)."""

    agent: Rate | None = None
    relays: Mapping[str, Rate] = field(default_factory=dict)
    domains: Mapping[str, Rate] = field(default_factory=dict)


class Limiter:
    """See the module. Moments are POSIX seconds; `tats` is what the store kept."""

    def __init__(self, limits: Limits, tats: Mapping[str, float]) -> None:
        self.limits = limits
        self._tats = dict(tats)
        self._changed: set[str] = set()
        self._most = _MANY

    def of_relay(self, relay: str) -> list[Limit]:
        """What binds everything that goes through the relay."""
        found = []
        if self.limits.agent is not None:
            found.append(("agent", self.limits.agent))
        if (rate := self.limits.relays.get(relay)) is not None:
            found.append((f"relay {relay}", rate))
        return found

    def of_job(self, job_id: int, rate: Rate | None) -> list[Limit]:
        """What binds everything in the job."""
        return [] if rate is None else [(f"job {job_id}", rate)]

    def of_domain(self, job_id: int, rates: Mapping[str, Rate], domain: str) -> list[Limit]:
        """What binds the job's recipients in the domain; sub-domains are others."""
        found = []
        for prefix, table in (("agent", self.limits.domains), (f"job {job_id}", rates)):
            rate = table.get(domain) or table.get("*")
            if rate is not None:
                found.append((f"{prefix} {domain}", rate))
        return found

    def permit(self, limits: Sequence[Limit], now: float) -> float:
        """The earliest moment, not before `now`, at which all of `limits` permit one more."""
        at = now
        for key, rate in limits:
            at = max(at, permit_at(self._tats.get(key), rate, now))
        return at

    def lanes(self, job_id: int, rates: Mapping[str, Rate], unsent: Mapping[str, int], now: float) -> tuple[Lane, ...]:
        """The domains of `unsent` (recipients by domain) that the agent or the job limits."""
        bound = ((count, self.of_domain(job_id, rates, domain)) for domain, count in unsent.items())
        return tuple(
            Lane(float(count), speed(limits), self.permit(limits, now)) for count, limits in bound if limits and count
        )

    def advance(self, limits: Sequence[Limit], now: float, n: int = 1) -> None:
        """`n` more go now."""
        for key, rate in limits:
            self._tats[key] = advance(self._tats.get(key), rate, now, n)
            self._changed.add(key)

    def give_back(self, limits: Sequence[Limit], n: int) -> None:
        """`n` that were to go did not."""
        for key, rate in limits:
            if key in self._tats:
                self._tats[key] -= n * rate.interval
                self._changed.add(key)

    def shift(self, by: float) -> None:
        """The clock was set by so many seconds."""
        if not by:
            return
        self._tats = {key: tat + by for key, tat in self._tats.items()}
        self._changed.update(self._tats)

    def unsaved(self, now: float) -> list[tuple[str, float]]:
        """The numbers that changed since the last call, to be written with the claim that used them."""
        if not self._changed:
            return []
        changed = [(key, self._tats[key]) for key in self._changed]
        self._changed.clear()
        if len(self._tats) > self._most:
            # Numbers in the past mean nothing more than none. Looked for each time that there are twice as many, for with a rate by the
            # day and many domains none of them may be.
            self._tats = {key: tat for key, tat in self._tats.items() if tat > now}
            self._most = max(_MANY, 2 * len(self._tats))
        return changed


def speed(limits: Sequence[Limit]) -> float:
    """How many a second all of `limits` allow; infinity without any."""
    return min((rate.speed for _, rate in limits), default=math.inf)


def room(limits: Sequence[Limit], most: int) -> int:
    """How many of `most` may go at once."""
    return min([most, *(rate.unit for _, rate in limits)])
