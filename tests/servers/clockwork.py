"""The real dispatcher, store and database on a clock that a test sets; the test plays the couriers."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from zoneinfo import ZoneInfo

from spoold.core.manifest import parse_manifest
from spoold.core.message.wire import MessageFacts
from spoold.core.schedule.retry import DEFAULT
from spoold.core.schedule.window import Windows
from spoold.core.state import JobState, Standing
from spoold.core.terms import Defaults, terms_of
from spoold.delivery.courier import Courier
from spoold.delivery.dispatcher import Dispatcher
from spoold.delivery.job import LiveJob
from spoold.delivery.limiter import Limiter, Limits
from spoold.smtp.relay import Relay, Security
from spoold.storage.admission import Admission, rows_of
from spoold.storage.database import Database
from spoold.storage.record import Admitted, NewMessage, NewRecipient
from spoold.storage.schema import SCHEMA
from spoold.storage.store import Store
from spoold.tally import Tally


class Clockwork:
    """`passed` are the seconds since the beginning, which no one sets; `offset` is by how much the wall clock is wrong."""

    def __init__(self, root: Path, begin: float, zone: ZoneInfo, limits: Limits) -> None:
        self.passed = 0.0
        self.offset = 0.0
        self._begin = begin
        self._zone = zone
        self._threads = ThreadPoolExecutor(1)
        self._database = Database(root / "spool.db")
        self._database.start(SCHEMA)
        self.store = Store(self._database)
        self._admission = Admission(self._database, lambda _: True)
        relay = Relay("default", "127.0.0.1", 25, Security.NONE)
        self.courier: Any = SimpleNamespace(
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
            Limiter(limits, {}),
            bodies,
            self._threads,
            Tally(),
            clock=lambda: self.now,
            monotonic=lambda: self.passed,
            changed=lambda _: None,
            moved=lambda _: None,
        )
        self.dispatcher.couriers["default"] = cast("Courier", self.courier)

    @property
    def now(self) -> float:
        """The wall clock, POSIX seconds."""
        return self._begin + self.passed + self.offset

    def admit(self, name: str, source: bytes, addresses: list[str]) -> int:
        """Put a job into the database, dated now, as intake does; `begin` it when the dispatcher is to know it."""
        job_id = self._admission.begin(name, self.now)
        rows = [
            NewRecipient(line, address, address.partition("@")[2], False, 1, None)
            for line, address in enumerate(addresses, 1)
        ]
        facts = MessageFacts(100, eight_bit=False, eight_bit_header=False, added=b"")
        self._admission.add(job_id, [NewMessage(1, "message.eml", b"", facts)], 1, rows_of(rows), self.now)
        standing = Standing(JobState.SENDING)
        self._admission.accept(job_id, Admitted(name, source, 0, name.encode(), standing, (), (), False, False))
        return job_id

    def begin(self, job_id: int) -> LiveJob:
        """Let the dispatcher have the job."""
        row = self.store.job(job_id)
        assert row is not None
        manifest = parse_manifest(row.manifest, zone=self._zone)
        terms = terms_of(manifest.timing, Defaults(self._zone, DEFAULT, Windows.always()), row.accepted_at)
        job = LiveJob.of(row, manifest, terms)
        self.dispatcher.begin(job)
        return job

    @property
    def at_rest(self) -> bool:
        """Whether the dispatcher has looked at all that changed."""
        return not self.dispatcher._dirty

    async def settle(self) -> None:
        """Let every read and write that the dispatcher began come to its end."""
        while self.dispatcher._tasks:
            await asyncio.wait(self.dispatcher._tasks)
        await self.store.alive()
        await asyncio.sleep(0)

    def close(self) -> None:
        self._database.close()
        self._threads.shutdown()


@contextmanager
def clockwork(root: Path, begin: float, zone: ZoneInfo, limits: Limits | None = None) -> Iterator[Clockwork]:
    """One in `root`, closed at the end."""
    made = Clockwork(root, begin, zone, limits or Limits())
    try:
        yield made
    finally:
        made.close()
