"""A week in the life of an agent: three jobs of different windows, rates and priorities, by an injected clock.

The real dispatcher, planner, limiter and store; only the connections are played. Every send is a line of `01-week/expected.txt`, for
people to read. After a deliberate change, `SPOOLD_UPDATE=1 pytest tests/acceptance` writes it anew.
"""

import asyncio
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from zoneinfo import ZoneInfo

from spoold.core.manifest import parse_manifest
from spoold.core.message.wire import MessageFacts
from spoold.core.outcome import Command, Reply, Result, read_reply
from spoold.core.schedule.rate import Rate
from spoold.core.schedule.retry import DEFAULT
from spoold.core.schedule.window import Windows
from spoold.core.state import JobState, Standing, after_outcome
from spoold.core.terms import Defaults, terms_of
from spoold.delivery.courier import Courier
from spoold.delivery.dispatcher import Dispatcher
from spoold.delivery.job import LiveJob
from spoold.delivery.limiter import Limiter, Limits
from spoold.smtp.relay import Relay, Security
from spoold.storage.admission import Admission, rows_of
from spoold.storage.database import Database
from spoold.storage.record import Admitted, DueRecipient, NewMessage, NewRecipient, Record
from spoold.storage.schema import SCHEMA
from spoold.storage.store import Store
from spoold.tally import Tally

CASE = Path(__file__).parent / "01-week"
ZONE = ZoneInfo("Europe/Vienna")
BEGIN = datetime(2026, 10, 22, 12, 0, tzinfo=ZONE)  # a Thursday; summer time ends on the Sunday after
JOBS = ("newsletter", "survey", "invoices")


class Week:
    """The clock, the dispatcher on it, and what was sent."""

    def __init__(self, root: Path) -> None:
        self.now = BEGIN.timestamp()
        self.lines: list[str] = []
        self.tries: Counter[str] = Counter()
        self.threads = ThreadPoolExecutor(1)
        self.database = Database(root / "spool.db")
        self.database.start(SCHEMA)
        self.store = Store(self.database)
        self.admission = Admission(self.database, lambda _: True)
        relay = Relay("default", "127.0.0.1", 25, Security.NONE)
        self.delivery: Any = SimpleNamespace(
            relay=relay,
            limit=4,
            health=SimpleNamespace(up=True, fault=None, until=0.0),
            suspicion=None,
            staff=lambda: None,
            rest=lambda: None,
            retire=lambda: None,
        )
        bodies: Any = None
        self.dispatcher = Dispatcher(
            self.store,
            {"default": relay},
            Limiter(Limits(agent=Rate(30, 3600.0)), {}),
            bodies,
            self.threads,
            Tally(),
            clock=lambda: self.now,
            monotonic=lambda: self.now - BEGIN.timestamp(),
            changed=lambda _: None,
            moved=lambda _: None,
        )
        self.dispatcher.couriers["default"] = cast("Courier", self.delivery)

    def accept(self, name: str) -> None:
        """Take the job whose manifest and recipients lie in the case's folder."""
        source = (CASE / f"{name}.yaml").read_bytes()
        manifest = parse_manifest(source, zone=ZONE)
        job_id = self.admission.begin(name, self.now)
        addresses = (CASE / f"{name}.txt").read_text().split()
        rows = [
            NewRecipient(line, address, address.partition("@")[2], False, 1, None)
            for line, address in enumerate(addresses, 1)
        ]
        facts = MessageFacts(100, eight_bit=False, eight_bit_header=False, added=b"")
        self.admission.add(job_id, [NewMessage(1, "message.eml", b"", facts)], 1, rows_of(rows), self.now)
        standing = Standing(JobState.SENDING)
        self.admission.accept(job_id, Admitted(name, source, 0, name.encode(), standing, (), (), False, False))
        row = self.store.job(job_id)
        assert row is not None
        terms = terms_of(manifest.timing, Defaults(ZONE, DEFAULT, Windows.always()), self.now)
        self.dispatcher.add(LiveJob.of(row, manifest, terms))
        self.say(f"{name} is taken, {len(addresses)} recipients")

    def say(self, text: str) -> None:
        at = datetime.fromtimestamp(self.now, ZONE)
        self.lines.append(f"{at:%a %d %b %H:%M:%S %Z}  {text}")

    async def settle(self) -> None:
        """Let every read and write that the dispatcher began come to its end."""
        while self.dispatcher._tasks:
            await asyncio.wait(self.dispatcher._tasks)
        await self.store.alive()
        await asyncio.sleep(0)

    async def run(self, until: float) -> None:
        """Send until that moment."""
        while self.now < until:
            states = {job.name: job.standing for job in self.dispatcher.jobs.values()}
            await self.settle()
            pause = self.dispatcher.step()
            await self.settle()
            for job_id, name in enumerate(JOBS, 1):
                row = self.store.job(job_id)
                before = states.get(name)
                if (
                    row is not None
                    and before is not None
                    and (row.standing.state, row.standing.reason) != (before.state, before.reason)
                ):
                    self.tell(row.name, row.standing)
            if self.dispatcher._dirty:
                continue
            if claims := self.dispatcher.claims.take(self.delivery, 1):
                await self.send(*claims[0])
                continue
            self.now = min(self.now + max(self.dispatcher.step(), 0.001) if pause > 0 else self.now + 0.001, until)

    def tell(self, name: str, standing: Standing) -> None:
        at = "" if standing.next_at is None else f" until {datetime.fromtimestamp(standing.next_at, ZONE):%a %H:%M:%S}"
        self.say(f"{name} is {standing.state}{f' ({standing.reason})' if standing.reason else ''}{at}")

    async def send(self, job: LiveJob, claim: list[DueRecipient]) -> None:
        """Play the relay: `grey…` is refused once for the time being, `gone…` for good, the others are taken."""
        ids = [recipient.id for recipient in claim]
        assert await self.store.journal.claim(ids, "default", self.now, self.dispatcher.claims.used()) == ids
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
        await self.store.journal.record(records)
        self.dispatcher.claims.recorded(job, records)


async def test_week_goes_as_a_person_would_expect(tmp_path: Path) -> None:
    week = Week(tmp_path)
    try:
        for name, hours in zip(JOBS, (0, 7, 22), strict=True):
            await week.run((BEGIN + timedelta(hours=hours)).astimezone(UTC).timestamp())
            week.accept(name)
        await week.run((BEGIN + timedelta(days=7)).timestamp())
        assert week.dispatcher.jobs == {}
    finally:
        week.database.close()
        week.threads.shutdown()
    text = "\n".join(week.lines) + "\n"
    expected = CASE / "expected.txt"
    if os.environ.get("SPOOLD_UPDATE"):
        expected.write_text(text)
    assert text == expected.read_text()
