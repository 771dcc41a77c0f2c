"""A scripted SMTP relay: the faults that no real server gives on demand, and the truth about what it
accepted.

It runs its own event loop in its own thread, so that a test may block or run a loop of its own. As a program,
`python -m tests.servers.relay --port 0 --journal FILE` prints its port in a line and serves until SIGTERM.

    relay.rules.append(Rule("DOT", DropAfterAccept(), nth=3, times=1))
"""

import argparse
import asyncio
import contextlib
import errno
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from tests.servers.ledger import Accepted, Ledger, Line, read_journal
from tests.servers.process import HOST
from tests.servers.script import (
    Action,
    Command,
    Delay,
    Drop,
    DropAfterAccept,
    DropBeforeAccept,
    Event,
    Garbage,
    Hang,
    Hook,
    Reply,
    RstMidBody,
    Rule,
)
from tests.servers.session import Session
from tests.servers.settings import EXTENSIONS, Settings
from tests.servers.wire import Wire

__all__ = [
    "EXTENSIONS",
    "Accepted",
    "Action",
    "Command",
    "Delay",
    "Drop",
    "DropAfterAccept",
    "DropBeforeAccept",
    "Event",
    "Garbage",
    "Hang",
    "Hook",
    "Ledger",
    "Line",
    "Relay",
    "Reply",
    "RstMidBody",
    "Rule",
    "read_journal",
]

_T = TypeVar("_T")


@dataclass(kw_only=True, eq=False, repr=False)
class Relay(Settings):
    """A context manager; the settings may be given as keywords and changed at any time.

    `port` is chosen when 0, and kept, closed to everybody, while the relay is stopped. What it saw is in
    `accepted`, `commands`, `violations`, `handshake_failures` and the counters of `ledger`.
    """

    host: str = HOST
    port: int = 0
    journal: Path | None = None

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.journal)
        self.accepted: list[Accepted] = self.ledger.accepted
        self.commands: list[Line] = self.ledger.commands
        self.violations: list[str] = self.ledger.violations
        self.handshake_failures: list[str] = self.ledger.handshake_failures
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay")
        self._listener: socket.socket | None = None
        self._reserved = self._bind(self.port)
        self.port = int(self._reserved.getsockname()[1])
        self._acceptor: asyncio.Task[None] | None = None
        self._sessions: dict[asyncio.Task[None], Wire] = {}
        self._release = asyncio.Event()
        self._errors: list[BaseException] = []
        self._thread.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def connections(self) -> int:
        """TCP connections accepted so far."""
        return self.ledger.connections

    @property
    def bodies(self) -> int:
        """Messages whose final dot has come: what the client did not withdraw."""
        return self.ledger.bodies

    @property
    def recipients(self) -> list[str]:
        """Every recipient of every accepted message, in order, repetitions included."""
        return [recipient for message in tuple(self.accepted) for recipient in message.recipients]

    def start(self) -> None:
        """Listen; after `stop`, on the same port."""
        self._call(self._listen())

    def stop(self, reset: bool = False) -> None:
        """Be down: connections are refused, open ones end at once, as when the process was killed."""
        self._call(self._shut(reset))

    def pause(self) -> None:
        """Accept no more connections: the kernel takes them, but nobody greets. Open ones go on."""
        self._call(self._set_accepting(False))

    def resume(self) -> None:
        self._call(self._set_accepting(True))

    def release(self) -> None:
        """Let everything that hangs now go on with its usual answer."""

        async def release() -> None:
            self._release.set()
            await asyncio.sleep(0)
            self._release.clear()

        self._call(release())

    def wait_for(self, condition: Callable[[Self], object], timeout: float = 10) -> None:
        """Wait until `condition(relay)` is true; it is looked at whenever a line, connection or message has
        come.

        It blocks: from a coroutine, call it through `asyncio.to_thread`. TimeoutError says what was seen so
        far.
        """
        if not self.ledger.wait(lambda: bool(condition(self)), timeout):
            lines = "\n".join(f"{line.connection}: {line.text}" for line in self.commands[-20:])
            raise TimeoutError(
                f"waited {timeout:g} s in vain for the relay; {len(self.accepted)} accepted,"
                f" {self.connections} connections, last commands:\n{lines}"
            )

    def take(self, count: int) -> list[Accepted]:
        """Wait for so many accepted messages; gives all that there are."""
        self.wait_for(lambda relay: len(relay.accepted) >= count, 15)
        return list(self.accepted)

    def close(self) -> None:
        """Stop for good; raises what a session or a hook raised, for that is a bug in the test."""
        if self._loop.is_closed():
            return
        self._call(self._shut(reset=False))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._reserved.close()
        self.ledger.close()
        if self._errors:
            raise self._errors[0]

    def _call(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def _bind(self, port: int) -> socket.socket:
        # Bound and not listening, the port refuses connections and is nobody else's.
        # asyncio switches Nagle's algorithm off only for sockets that say which protocol they are.
        reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            reserved.bind((self.host, port))
        except OSError:
            reserved.close()
            raise
        reserved.setblocking(False)
        return reserved

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = self._reserved
            self._listener.listen(1024)
            await self._set_accepting(True)

    async def _shut(self, reset: bool) -> None:
        if self._listener is None:
            return
        await self._set_accepting(False)
        self._listener.close()
        self._listener = None
        sessions = dict(self._sessions)
        for task, wire in sessions.items():
            wire.abort(reset)
            task.cancel()
        await asyncio.gather(*sessions, return_exceptions=True)
        for wire in sessions.values():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wire.lost.wait(), 1)
        self._reserved = await self._bind_again()

    async def _bind_again(self) -> socket.socket:
        """Get the port back. A program that is being started just now, by another thread, may have the listener a little longer."""
        deadline = self._loop.time() + 10
        while True:
            try:
                return self._bind(self.port)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or self._loop.time() > deadline:
                    raise
            await asyncio.sleep(0.02)  # a poll, bounded by the deadline above

    async def _set_accepting(self, accepting: bool) -> None:
        if self._acceptor:
            self._acceptor.cancel()
            await asyncio.gather(self._acceptor, return_exceptions=True)
            self._acceptor = None
        if accepting and self._listener:
            self._acceptor = asyncio.create_task(self._accept(self._listener))

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            peer, _ = await asyncio.get_running_loop().sock_accept(listener)
            wire = Wire()
            task = asyncio.create_task(self._serve(peer, wire))
            self._sessions[task] = wire
            task.add_done_callback(self._served)

    async def _serve(self, peer: socket.socket, wire: Wire) -> None:
        number = self.ledger.connected()
        try:
            context = self.tls if self.implicit_tls else None
            try:
                await asyncio.get_running_loop().connect_accepted_socket(
                    lambda: wire,
                    peer,
                    ssl=context,
                    ssl_handshake_timeout=10 if context else None,
                    ssl_shutdown_timeout=1 if context else None,
                )
            except (ssl.SSLError, OSError) as error:
                wire.lost.set()
                self.ledger.handshake_failed(number, error)
                return
            wire.latency = self.latency
            await Session(wire, self, self.ledger, number, self._release).run()
        finally:
            self.ledger.disconnected()

    def _served(self, task: asyncio.Task[None]) -> None:
        del self._sessions[task]
        if not task.cancelled() and (error := task.exception()):
            self._errors.append(error)


def main() -> None:
    """Serve as a process of its own: for tests in which the relay, too, has to survive or die apart."""
    parser = argparse.ArgumentParser(prog="python -m tests.servers.relay", description=main.__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--journal", type=Path)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds a round trip")
    parser.add_argument("--max-recipients", type=int)
    parser.add_argument("--no-pipelining", action="store_true")
    parser.add_argument(
        "--reply",
        nargs=3,
        action="append",
        default=[],
        metavar=("COMMAND", "REGEX", "TEXT"),
        help="a Reply rule",
    )
    parser.add_argument(
        "--delay", nargs=2, action="append", default=[], metavar=("COMMAND", "SECONDS"), help="a Delay rule"
    )
    options = parser.parse_args()
    rules = [Rule(command, Delay(float(seconds))) for command, seconds in options.delay]
    rules += [Rule(command, Reply(text), match=match) for command, match, text in options.reply]
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    with Relay(
        port=options.port,
        journal=options.journal,
        latency=options.latency,
        max_recipients=options.max_recipients,
        extensions=tuple(line for line in EXTENSIONS if not (options.no_pipelining and line == "PIPELINING")),
        rules=rules,
    ) as relay:
        print(relay.port, flush=True)
        signal.sigwait(signals)


if __name__ == "__main__":
    main()
