"""A week in the life of an agent: three jobs of different windows, rates and priorities, by an injected clock.

The real dispatcher, planner, limiter and store; only the connections are played. Every send is a line of `01-week/expected.txt`, for
people to read. After a deliberate change, `SPOOLD_UPDATE=1 pytest tests/acceptance` writes it anew.
"""

import os
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from spoold.core.outcome import Command, Result
from spoold.core.reply import Reply, read_reply
from spoold.core.schedule.rate import Rate
from spoold.core.state import Standing, after_outcome
from spoold.delivery.job import LiveJob
from spoold.delivery.limiter import Limits
from spoold.storage.record import DueRecipient, Record
from tests.servers.clockwork import Clockwork, clockwork

CASE = Path(__file__).parent / "01-week"
ZONE = ZoneInfo("Europe/Vienna")
BEGIN = datetime(2026, 10, 22, 12, 0, tzinfo=ZONE)  # a Thursday; summer time ends on the Sunday after
JOBS = ("newsletter", "survey", "invoices")


class Week:
    """A week on this clockwork, and what was sent in it."""

    def __init__(self, works: Clockwork) -> None:
        self.works = works
        self.dispatcher = works.dispatcher
        self.lines: list[str] = []
        self.tries: Counter[str] = Counter()

    @property
    def now(self) -> float:
        return self.works.now

    def accept(self, name: str) -> None:
        """Take the job whose manifest and recipients lie in the case's folder."""
        addresses = (CASE / f"{name}.txt").read_text().split()
        self.works.begin(self.works.admit(name, (CASE / f"{name}.yaml").read_bytes(), addresses))
        self.say(f"{name} is taken, {len(addresses)} recipients")

    def say(self, text: str) -> None:
        at = datetime.fromtimestamp(self.now, ZONE)
        self.lines.append(f"{at:%a %d %b %H:%M:%S %Z}  {text}")

    async def run(self, until: float) -> None:
        """Send until that moment."""
        while self.now < until:
            states = {job.name: job.standing for job in self.dispatcher.jobs.values()}
            await self.works.settle()
            pause = self.dispatcher.step()
            await self.works.settle()
            for job_id, name in enumerate(JOBS, 1):
                row = self.works.store.job(job_id)
                before = states.get(name)
                if (
                    row is not None
                    and before is not None
                    and (row.standing.state, row.standing.reason) != (before.state, before.reason)
                ):
                    self.tell(row.name, row.standing)
            if not self.works.at_rest:
                continue
            if claims := self.dispatcher.claims.take(self.works.courier, 1):
                await self.send(*claims[0])
                continue
            self.works.passed += min(max(self.dispatcher.step(), 0.001) if pause > 0 else 0.001, until - self.now)

    def tell(self, name: str, standing: Standing) -> None:
        at = "" if standing.next_at is None else f" until {datetime.fromtimestamp(standing.next_at, ZONE):%a %H:%M:%S}"
        self.say(f"{name} is {standing.state}{f' ({standing.reason})' if standing.reason else ''}{at}")

    async def send(self, job: LiveJob, claim: list[DueRecipient]) -> None:
        """Play the relay: `grey…` is refused once for the time being, `gone…` for good, the others are taken."""
        ids = [recipient.id for recipient in claim]
        assert await self.works.store.journal.claim(ids, "default", self.now, self.dispatcher.claims.used()) == ids
        records = []
        for recipient in claim:
            self.tries[recipient.address] += 1
            reply = Reply(250, "2.0.0 Ok")
            if recipient.address.startswith("gone"):
                reply = Reply(550, "5.1.1 No such user")
            elif recipient.address.startswith("grey") and self.tries[recipient.address] == 1:
                reply = Reply(451, "4.7.1 Try later")
            outcome = read_reply(Command.RCPT, reply).outcome
            transition = after_outcome(recipient, outcome, job.terms.retry, job.manifest.on_uncertain, self.now)
            records.append(
                Record(recipient, transition, "default", "relay", self.now, outcome.result is not Result.RETURNED)
            )
            self.say(f"    {job.name:<10} {recipient.address:<22} {transition.state.label}")
        await self.works.store.journal.record(records)
        self.dispatcher.claims.recorded(job, records)


async def test_week_goes_as_a_person_would_expect(tmp_path: Path) -> None:
    with clockwork(tmp_path, BEGIN.timestamp(), ZONE, Limits(agent=Rate(30, 3600.0))) as works:
        week = Week(works)
        for name, hours in zip(JOBS, (0, 7, 22), strict=True):
            await week.run((BEGIN + timedelta(hours=hours)).astimezone(UTC).timestamp())
            week.accept(name)
        await week.run((BEGIN + timedelta(days=7)).timestamp())
        assert week.dispatcher.jobs == {}
    text = "\n".join(week.lines) + "\n"
    expected = CASE / "expected.txt"
    if os.environ.get("SPOOLD_UPDATE"):
        expected.write_text(text)
    assert text == expected.read_text()
