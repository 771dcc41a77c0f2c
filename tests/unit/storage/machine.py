"""A real store on a real file, for rules to act on in any order."""

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from hypothesis.stateful import RuleBasedStateMachine

from spoold.core.state import RecipientState, Standing
from spoold.storage.database import Database
from spoold.storage.ledger import Ledger
from spoold.storage.record import Record
from spoold.storage.schema import SCHEMA
from spoold.storage.store import Store

T = TypeVar("T")


class Calls:
    """What a machine wants of a store that writes, each call run until it is durable: the one place that knows its form."""

    def __init__(self, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self._loop = loop

    def claim(self, ids: Sequence[int], now: float) -> list[int]:
        return self._run(lambda: self._store.journal.claim(ids, "default", now))

    def record(self, records: Sequence[Record]) -> None:
        self._run(lambda: self._store.journal.record(records))

    def release(self, ids: Sequence[int]) -> None:
        self._run(lambda: self._store.journal.release(ids))

    def end_unsent(self, job_id: int, state: RecipientState) -> None:
        """End all that are not sent, in as many steps as that takes."""
        for _ in range(5):
            if self._run(lambda: self._store.end_unsent(job_id, state, "the end")) == 0:
                return
        raise AssertionError("it never says that nothing is left")

    def retry_now(self, job_id: int, now: float, *, uncertain: bool) -> int:
        return self._run(lambda: self._store.agenda.retry_now(job_id, now, uncertain=uncertain))

    def set_back(self, back: float, now: float) -> None:
        self._run(lambda: self._store.set_back(back, now))

    def mark(self, job_id: int, standing: Standing, now: float, *, held: bool, cancelled: bool, expired: bool) -> None:
        self._run(lambda: self._store.hold(job_id, held))
        if cancelled:
            self._run(lambda: self._store.cancel(job_id))
        if expired:
            self._run(lambda: self._store.expire(job_id))
        self._run(lambda: self._store.stand(job_id, standing, now))

    def _run(self, call: "Callable[[], asyncio.Future[T]]") -> T:
        async def wait() -> T:
            return await call()

        return self._loop.run_until_complete(wait())


class StoreMachine(RuleBasedStateMachine):
    """A machine whose `@initialize` calls `set_up`; what it did is gone with it."""

    def set_up(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.path = Path(self.folder.name) / "spool.db"
        self.open()

    def open(self) -> None:
        """As at the start of an agent, with the database that is there."""
        self.database = Database(self.path)
        self.database.start(SCHEMA)
        self.store, self.ledger = Store(self.database), Ledger(self.database)
        self.calls = Calls(self.store, self.loop)

    def teardown(self) -> None:
        if hasattr(self, "database"):
            self.database.close()
            self.loop.close()
            self.folder.cleanup()
