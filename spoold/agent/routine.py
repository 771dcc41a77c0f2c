"""What the running agent does again and again: looking at new/, at control files and at the disk, telling how it is, purging.

Each is a coroutine that runs until it is cancelled. What the file system refuses here is told once and tried again; anything else
ends the agent.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from spoold.agent.parts import Parts
from spoold.agent.pulse import Pulse
from spoold.agent.purge import Purge
from spoold.agent.systemd import ServiceManager
from spoold.core.quantity import format_duration
from spoold.event import log

_T = TypeVar("_T")

_CONTROL_EVERY = 0.4
_SCAN_EVERY = 1.0
_SCAN_SHARE = 5.0
_SCAN_LATEST = 5.0
_STATUS_EVERY = 2.0
#: With many jobs it is written less often: this many times what the last writing took, but at least every five seconds.
_STATUS_SHARE = 200.0
_STATUS_LATEST = 4.0
_DISK_EVERY = 1.0
_PURGE_EVERY = 3600.0
_REQUESTS_EVERY = 1.0
#: So many seconds a part may be at one thing, twice the service manager's own patience if that is more: then it hangs.
_PATIENCE = 60.0


class Routines:
    """See the module. `state` gives the agent's in a word; `gone` is told once that the spool is not where it was; `clock` gives
    POSIX seconds, `monotonic` seconds that no one sets; below `reserve` free bytes nothing is sent."""

    def __init__(
        self,
        parts: Parts,
        service_manager: ServiceManager,
        *,
        state: Callable[[], str],
        gone: Callable[[], None],
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        reserve: int,
    ) -> None:
        self._parts = parts
        self._service_manager = service_manager
        self._state = state
        self._gone = gone
        self._clock = clock
        self._monotonic = monotonic
        self._reserve = reserve
        self._troubles: dict[str, str] = {}
        self._pulse = Pulse(monotonic, max(_PATIENCE, 4 * (service_manager.watchdog_interval or 0.0)))
        # To end a job of millions takes a minute, to write its list on a slow disk some more.
        self._pulse.watch("dispatcher", lambda: parts.dispatcher.busy_since, times=3)
        self._pulse.watch("projector", lambda: parts.projector.busy_since, times=10)
        self._scan_threads = ThreadPoolExecutor(1, thread_name_prefix="scan")

    def all(self) -> list[tuple[str, Coroutine[None, None, None]]]:
        """Each with its name."""
        return [
            ("scan", self._scan()),
            ("control", self._look_at_controls()),
            ("edit", self._edit()),
            ("status", self._tell()),
            ("disk", self._look_at_disk()),
            ("watchdog", self._ping()),
            ("purge", self._purge()),
            ("notice", self._parts.notices.run(self._parts.threads)),
        ]

    async def drained(self) -> None:
        """Return when nothing is left that could be sent now."""
        parts = self._parts
        calm = 0
        while calm < 3:
            await asyncio.sleep(0.2)
            busy = parts.intake.settling or not parts.dispatcher.idle or not parts.projector.settled
            busy = busy or not await self._in_thread(parts.notices.settled)
            calm = 0 if busy else calm + 1

    async def publish(self) -> None:
        """Write what the agent says of itself."""
        await self._in_thread(self._parts.bulletin.write, self._state(), self._parts.zone())

    def shutdown(self) -> None:
        """End the threads, once nothing runs any more."""
        self._scan_threads.shutdown()

    async def _in_thread(self, work: Callable[..., _T], *values: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._parts.threads, work, *values)

    @contextlib.contextmanager
    def _tolerant(self, where: str) -> Iterator[None]:
        """An error of the file system in what is done again anyway is told once, and is no reason to end."""
        try:
            yield
        except OSError as error:
            text = error.strerror or str(error)
            if self._troubles.get(where) != text:
                log("spool.failed", where=where, error=text)
            self._troubles[where] = text
        else:
            self._troubles.pop(where, None)

    async def _scan(self) -> None:
        loop, stirred = asyncio.get_running_loop(), self._parts.scan_now
        while True:
            stirred.clear()
            begun = self._monotonic()
            wait = None
            with self._tolerant("new"), self._pulse.round("scan"):
                wait = await loop.run_in_executor(self._scan_threads, self._parts.intake.scan)
            rest = _SCAN_SHARE * (self._monotonic() - begun)
            # While thousands of uploads come in, each look at all of them must find more than one.
            await asyncio.sleep(min(rest, _SCAN_EVERY / 2))
            # While thousands stand there and nothing stirs, looking at them must not keep a core busy.
            every = min(max(_SCAN_EVERY, rest), _SCAN_LATEST)
            pause = every if wait is None else min(max(wait, 0.02), every)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await stirred.wait()

    async def _look_at_controls(self) -> None:
        while True:
            await asyncio.sleep(_CONTROL_EVERY)
            if self._parts.spool.is_gone:
                self._gone()
                return
            with self._tolerant("control files"), self._pulse.round("control"):
                await self._parts.orders.obey()

    async def _edit(self) -> None:
        while True:
            with self._tolerant("edited job.yaml"):
                await self._parts.orders.edit_always()

    async def _look_at_disk(self) -> None:
        spool, dispatcher = self._parts.spool, self._parts.dispatcher
        while True:
            with self._tolerant("folders"):
                spool.check_folders()
            with self._tolerant("free space"):
                free = spool.files.free_bytes(spool.root)
                full = free < self._reserve
                if full != dispatcher.claims.disk_full:
                    dispatcher.fill_disk(full)
                    if full:
                        log("disk.full", free=free)
                    else:
                        log("disk.free")
            await asyncio.sleep(_DISK_EVERY)

    async def _ping(self) -> None:
        interval = self._service_manager.watchdog_interval
        if interval is None:
            return
        answer, told = self._parts.store.alive(), False
        while True:
            await asyncio.wait([answer], timeout=interval)
            # While the disk is full, who writes waits for room, and is right to.
            full = self._parts.dispatcher.claims.disk_full
            stuck = {} if full else self._pulse.stuck()
            if stuck and not told:
                log("agent.stuck", parts=[f"{part}, for {format_duration(seconds)}" for part, seconds in stuck.items()])
            told = bool(stuck)
            if (answer.done() or full) and not stuck:
                self._service_manager.watchdog()
            if answer.done():
                answer.result()
                await asyncio.sleep(interval)
                answer = self._parts.store.alive()

    async def _purge(self) -> None:
        purge = Purge(self._parts.spool, self._parts.store)
        due = 0.0
        while True:
            keep = self._parts.configuration.keep_done
            with self._tolerant("done"):
                if keep is not None and self._monotonic() >= due:
                    await self._in_thread(purge.remove, self._clock() - keep)
                    due = self._monotonic() + _PURGE_EVERY
                await self._in_thread(purge.obey)
            await asyncio.sleep(_REQUESTS_EVERY)

    async def _tell(self) -> None:
        while True:
            self._service_manager.status(self._parts.survey.summary())
            begun = self._monotonic()
            with self._pulse.round("status"):
                await self.publish()
            await asyncio.sleep(max(_STATUS_EVERY, min(_STATUS_LATEST, _STATUS_SHARE * (self._monotonic() - begun))))
