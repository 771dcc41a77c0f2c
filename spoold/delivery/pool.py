"""One relay's connections: opened as they are wanted and as the relay bears them, closed when they are of no more use."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from spoold.core.fault import Fault, FaultKind
from spoold.event import log
from spoold.smtp.concurrency import Concurrency
from spoold.smtp.connection import connect
from spoold.smtp.dialer import Memory
from spoold.smtp.health import Health
from spoold.smtp.relay import Relay
from spoold.smtp.session import Session
from spoold.storage.database import DatabaseError

#: An idle connection is kept so long, in seconds: relays close theirs after 300 at the least (RFC 5321 §4.5.3.2.7).
IDLE = 10.0
#: A connection that takes longer than this to open is reported before it fails, so that nobody waits without knowing.
SUSPECT = 3.0


@dataclass(slots=True, eq=False)
class Link:
    """A connection; `load` counts the claims that are on their way through it."""

    session: Session
    load: int = 0
    since: float = 0.0
    """When it last became free of a message, or got its first; monotonic."""
    large: bool = False
    """The last message that it got takes a while."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Pool:
    """See the module.

    `ready` is called when one is open, `left` when one is closed or could not be opened, `changed` when the relay's health or
    what is suspected of it is another.
    """

    def __init__(
        self,
        relay: Relay,
        concurrency: Concurrency,
        monotonic: Callable[[], float],
        *,
        ready: Callable[[], None],
        left: Callable[[], None],
        changed: Callable[[], None],
    ) -> None:
        self.health = Health()
        self.suspicion: Fault | None = None
        self.retired = False
        self.open: list[Link] = []
        self._relay = relay
        self._concurrency = concurrency
        self._monotonic = monotonic
        self._ready = ready
        self._left = left
        self._changed = changed
        self.workers: set[asyncio.Task[None]] = set()
        """One for each connection that is open or being opened."""
        self._opening: set[asyncio.Task[None]] = set()
        """Those of them that have none yet."""
        self._memory = Memory(monotonic)
        self._sweeper: asyncio.TimerHandle | None = None

    def retire(self) -> None:
        """Open none any more, not those that are being opened either, and close each as soon as nothing is on its way
        through it.
        """
        self.retired = True
        for task in self._opening:
            task.cancel()
        self.end_idle()

    def grow(self) -> None:
        """Open one more connection, if the relay may have it."""
        now = self._monotonic()
        # A relay in trouble gets one connection to prove itself with, after its rest.
        most = self._concurrency.width if self.health.up else int(now >= self.health.until)
        # Four times as many at most as there are: a small job is through before one more would be open.
        if self.retired or len(self.workers) >= min(most, max(1, 4 * len(self.open))):
            return
        task = asyncio.get_running_loop().create_task(self._serve(), name=f"relay {self._relay.name}")
        self.workers.add(task)
        self._opening.add(task)
        task.add_done_callback(self._closed)

    def _closed(self, task: "asyncio.Task[None]") -> None:
        self.workers.discard(task)
        self._opening.discard(task)
        tell_error(task, self._relay.name)
        self._left()

    async def _serve(self) -> None:
        """One connection, from its opening to its end."""
        session = await self._connect()
        if (task := asyncio.current_task()) is not None:
            self._opening.discard(task)
        if session is None:
            return
        link = Link(session, since=self._monotonic())
        session.on_end = partial(self._look_at, link)
        self.open.append(link)
        self._look_at(link)
        self._ready()
        try:
            await link.ended.wait()
        finally:
            self.open.remove(link)
            await session.close()

    def _look_at(self, link: Link) -> None:
        """End a connection that is of no more use, once nothing is on its way through it."""
        if link.load:
            return
        if not link.session.usable or not self._usable():
            link.ended.set()
            return
        if self._sweeper is None:
            self._sweep_in(IDLE)

    def free(self, link: Link) -> None:
        """One claim less is on its way through it."""
        link.load -= 1
        link.since = self._monotonic()
        self._look_at(link)

    def end_idle(self) -> None:
        for link in self.open:
            self._look_at(link)

    def _sweep_in(self, seconds: float) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(seconds, self._sweep)

    def _sweep(self) -> None:
        """End the connections that have been idle for long."""
        self._sweeper = None
        idle = [link for link in self.open if not link.load and not link.ended.is_set()]
        before = self._monotonic() - IDLE + 0.01
        for link in idle:
            if link.since <= before:
                link.ended.set()
        rest = [link.since for link in idle if link.since > before]
        if rest:
            self._sweep_in(min(rest) - before)

    def _usable(self) -> bool:
        return not self.retired and (self.health.up or self._monotonic() >= self.health.until)

    async def _connect(self) -> Session | None:
        slow = asyncio.get_running_loop().call_later(SUSPECT, self._suspect)
        try:
            found = await connect(self._relay, self._memory)
        finally:
            slow.cancel()
            self.suspicion = None
        if isinstance(found, Session):
            if self.health.connected():
                log("relay.up", relay=self._relay.name)
                self._changed()
            return found
        if self.open and found.kind in (FaultKind.BUSY, FaultKind.CONNECT, FaultKind.GREETING):
            # The others work: it is one connection too many, not a relay that is down.
            if self._concurrency.refused(self._monotonic(), len(self.open)):
                self._tell_width()
            return None
        self.fault(found)
        return None

    def _suspect(self) -> None:
        if self.health.up and not self.open:
            self.suspicion = Fault(FaultKind.CONNECT, f"{self._relay.address}: no answer for {SUSPECT:g} s so far")
            self._changed()

    def fault(self, fault: Fault) -> None:
        """The relay is in trouble, whoever found it out."""
        if self.health.failed(fault, self._monotonic()):
            log("relay.down", relay=self._relay.name, error=str(fault))
        self.end_idle()
        self._changed()

    def dropped(self, reason: str) -> None:
        """It broke a connection off in a transaction: once is chance, again and again is trouble."""
        if self.health.dropped(f"{self._relay.address}: {reason}", self._monotonic()):
            log("relay.down", relay=self._relay.name, error=str(self.health.fault))
        if not self.health.up:
            self.end_idle()
            self._changed()

    def pushed_back(self) -> None:
        """It asks for fewer connections."""
        if self._concurrency.pushed_back(self._monotonic(), len(self.open)):
            self._tell_width()

    def others(self, link: Link) -> bool:
        """Whether the relay serves another connection."""
        return any(other.session.usable for other in self.open if other is not link)

    def _tell_width(self) -> None:
        log("relay.connections", relay=self._relay.name, connections=self._concurrency.width)


def tell_error(task: "asyncio.Task[None]", relay: str) -> None:
    """Log what a task of a relay died of; a database that failed tells of itself."""
    if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, DatabaseError):
        log("agent.task_failed", where=f"relay {relay}", error=f"{type(error).__name__}: {error}")
