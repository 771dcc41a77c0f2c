"""However the clock is set, by a millisecond or by a year, back or forward, at whatever step of a job's life: everybody ends in a
final state, nobody is sent to earlier than allowed, and no job is held for uncertain recipients that it does not have.

The real dispatcher, store and database run on a clock that Hypothesis sets; the test plays the couriers: it takes claims, lets
them stand in line, lets them leave, and records what came of them later.
"""

import asyncio
import tempfile
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from spoold.core.outcome import Outcome, Result, deferred, failed, unknown
from spoold.core.schedule.rate import Rate
from spoold.core.state import JobState, RecipientState, after_outcome
from spoold.delivery.job import LiveJob
from spoold.delivery.limiter import Limits
from spoold.storage.ledger import Ledger
from spoold.storage.record import DueRecipient, Record
from tests.servers.clockwork import Clockwork, clockwork

ZONE = ZoneInfo("Europe/Vienna")
BEGIN = datetime(2026, 11, 24, 9, 0, tzinfo=UTC).timestamp()  # a Tuesday, ten o'clock in Vienna
YEAR = 365 * 86400.0
SENT = Outcome(Result.SENT, "2.0.0", "250 ok", 250)
OUTCOMES = {
    "sent": SENT,
    "failed": failed("5.1.1", "no such user"),
    "deferred": deferred("4.2.0", "later"),
    "uncertain": unknown("the connection broke"),
}
MANIFESTS = {
    "plain": "",
    "window": 'windows: ["08:00-18:00"]\n',
    "rate": "rate: 6/m\n",
    "domains": 'domain_rates: {"*": 30/m}\n',
    "later": "send_after: 2026-11-24T11:00:00+01:00\n",
    "short": "expires: 6h\n",
    "hold": "on_uncertain: hold\n",
}
RETRY = 600.0
#: What a rate lets go early, and a courier may wait.
SLACK = 1.2

steps = st.sampled_from([0.001, 0.5, 3.0, 59.0, 61.0, 3600.0, 86400.0, YEAR]).flatmap(
    lambda size: st.sampled_from([size, -size])
)
#: (what happens, by how much the clock is set before it). Most of the time it is not.
events = st.tuples(
    st.sampled_from(["look", "take", "leave", "leave", "record", "record", "wait", "accept", "hold", "release"]),
    st.just(0.0) | st.just(0.0) | steps,
)


@dataclass
class Claim:
    job: LiveJob
    recipients: list[DueRecipient]
    taken_at: float


class Play:
    """What happens, and what was seen of it. Moments of `left` are monotonic seconds."""

    def __init__(self, works: Clockwork, results: deque[str]) -> None:
        self.works = works
        self.dispatcher = works.dispatcher
        self.results = results
        self.line: deque[Claim] = deque()
        self.ended: deque[tuple[Claim, list[Outcome]]] = deque()
        self.forward: list[tuple[float, float]] = []
        self.left: dict[int, list[float]] = {}
        self.tried: dict[int, tuple[float, str]] = {}

    def set_clock(self, by: float) -> None:
        self.works.offset += by
        if by > 0:
            self.forward.append((self.works.passed, by))

    def gained(self, since: float) -> float:
        """By how much the wall clock went forward by itself since that monotonic moment."""
        return sum(by for at, by in self.forward if at >= since)

    async def look(self) -> float:
        await self.works.settle()
        pause = self.dispatcher.step()
        await self.works.settle()
        for job in self.dispatcher.jobs.values():
            if job.standing.state is JobState.HELD and not job.held:
                assert job.counts.get(RecipientState.UNCERTAIN, 0) > 0, "held, and nobody is uncertain"
        return pause

    async def take(self) -> bool:
        found = self.dispatcher.claims.take(self.works.courier, 3)
        for job, recipients in found:
            ids = [recipient.id for recipient in recipients]
            granting = self.works.store.journal.claim(
                ids, "default", self.dispatcher._clock(), self.dispatcher.claims.used()
            )
            granted = set(await granting)
            if missing := [id_ for id_ in ids if id_ not in granted]:
                self.dispatcher.claims.not_granted(job, missing)
            kept = [recipient for recipient in recipients if recipient.id in granted]
            if kept:
                self.line.append(Claim(job, kept, self.works.passed))
        return bool(found)

    async def leave(self) -> bool:
        if not self.line:
            return False
        claim = self.line.popleft()
        job = claim.job
        if not self.dispatcher.claims.allowed(job, self.works.courier, self.works.passed - claim.taken_at):
            await self.works.store.journal.release([recipient.id for recipient in claim.recipients])
            self.dispatcher.claims.put_back(job, self.works.courier, claim.recipients)
            return True
        self.check(claim)
        outcomes = []
        for recipient in claim.recipients:
            result = self.results.popleft() if self.results else "sent"
            self.tried[recipient.id] = (self.works.passed, result)
            outcomes.append(OUTCOMES[result])
        self.ended.append((claim, outcomes))
        return True

    def check(self, claim: Claim) -> None:
        """Nobody leaves earlier than allowed: by the wall clock's appointments, by the rates, by the rest between two tries."""
        now, passed, job = self.works.now, self.works.passed, claim.job
        assert job.terms.schedule.is_open(now), "the window is closed"
        assert job.terms.send_after is None or now >= job.terms.send_after, "before send_after"
        assert job.terms.expires_at is None or now < job.terms.expires_at, "after its expiry"
        assert not job.held
        for recipient in claim.recipients:
            assert recipient.address
            if (before := self.tried.get(recipient.id)) is not None:
                at, result = before
                rest = {"deferred": RETRY, "uncertain": 900.0}[result]
                assert passed - at + self.gained(at) >= rest - 1e-3, f"again after {passed - at} s"
        if job.terms.rate is not None:
            left = self.left.setdefault(job.id, [])
            if left and not self.gained(left[-1]):
                assert passed - left[-1] >= job.terms.rate.interval - SLACK, "faster than its rate"
            left.append(passed)

    async def record(self) -> bool:
        if not self.ended:
            return False
        claim, outcomes = self.ended.popleft()
        job, now = claim.job, self.dispatcher._clock()
        records = [
            Record(
                recipient,
                after_outcome(recipient, outcome, job.terms.retry, job.manifest.on_uncertain, now),
                "default",
                "relay",
                now,
                True,
            )
            for recipient, outcome in zip(claim.recipients, outcomes, strict=True)
        ]
        written = self.works.store.journal.record(records)
        # The clock may be set while this is on its way to the disk.
        self.dispatcher.step()
        await written
        self.dispatcher.claims.recorded(job, records)
        return True


async def play(
    works: Clockwork, names: list[str], script: list[tuple[str, float]], during: list[float], results: list[str]
) -> None:
    acts = Play(works, deque(results))
    waiting = deque(names)

    def accept() -> None:
        name = waiting.popleft()
        source = f"sender: a@b.example\nretry: {{every: {RETRY:g}s, for: 3h}}\n{MANIFESTS[name]}".encode()
        job_id = works.admit(f"{name}-{len(waiting)}", source, [f"r{n}@d{n % 2}.example" for n in range(4)])
        if during:
            acts.set_clock(during.pop())  # while it is on its way to the dispatcher
        works.begin(job_id)

    accept()
    for what, by in script:
        if by:
            acts.set_clock(by)
        if what == "accept" and waiting:
            accept()
        elif what == "wait":
            works.passed += 20.0
        elif what in ("hold", "release"):
            for job in list(works.dispatcher.jobs.values()):
                await works.dispatcher.hold(job, what == "hold")
        elif what != "accept":
            await getattr(acts, what)()
    while waiting:
        accept()
    for job in list(works.dispatcher.jobs.values()):
        await works.dispatcher.hold(job, False)
    if "later" in names:
        acts.set_clock(-works.offset)  # an appointment is kept by the right clock
    # From here on the clock goes as it should, and everything must come to its end.
    begun = works.passed
    while works.dispatcher.jobs:
        pause = await acts.look()
        busy = await acts.record() or await acts.leave() or await acts.take()
        for job in list(works.dispatcher.jobs.values()):
            if job.standing.state is JobState.HELD:
                await works.dispatcher.retry(job, uncertain=True)
                acts.tried.clear()
        if not busy and works.at_rest:
            # (The dispatcher looks at the clock every twenty seconds; nothing would come of that here.)
            moments = [works.dispatcher._alarms.next(), works.dispatcher.claims.resumes_at()]
            wakes_at = min((at for at in moments if at is not None), default=works.now + pause)
            works.passed += max(wakes_at - works.now, 0.001)
        assert works.passed - begun < 3 * 86400, {
            job.name: (job.standing, job.counts) for job in acts.dispatcher.jobs.values()
        }
    ledger = Ledger(works._database)
    for job_id in range(1, len(names) + 1):
        counts = {state: count for state, count in ledger.counts(job_id).items() if count}
        assert all(state.final for state in counts), counts
        assert sum(counts.values()) == 4


@settings(max_examples=150, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.sampled_from(sorted(MANIFESTS)), min_size=1, max_size=3),
    st.lists(events, max_size=30),
    st.lists(st.just(0.0) | steps, max_size=3),
    st.lists(st.sampled_from(["sent", "sent", "failed", "deferred", "uncertain"]), max_size=12),
    st.sampled_from([None, Rate(20, 60.0)]),
)
def test_no_step_of_the_clock_loses_or_hurries_anybody(
    names: list[str], script: list[tuple[str, float]], during: list[float], results: list[str], agent: Rate | None
) -> None:
    with tempfile.TemporaryDirectory() as folder, clockwork(Path(folder), BEGIN, ZONE, Limits(agent=agent)) as works:
        asyncio.run(_play_within(works, names, script, during, results))


async def _play_within(
    works: Clockwork, names: list[str], script: list[tuple[str, float]], during: list[float], results: list[str]
) -> None:
    await play(works, names, script, list(during), results)
