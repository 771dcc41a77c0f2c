"""The mail transactions of one connection, pipelined where the server says so (RFC 2920).

A session is the asyncio protocol that takes over the transport once aiosmtplib has connected, encrypted and logged in.
It matches every reply to its transaction, streams the data with back-pressure, and knows at any moment whether the last
byte of the final dot has left this process: only then can the relay have taken the message, and only then may a lost
connection mean *uncertain*. With PIPELINING the next transaction's group goes out behind the dot of the one before
it: one round trip a message. Nothing that a server does raises out of it; a session that was not answered cleanly says
so by `usable` and is closed, never used again.
"""

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import cast

from spoold.core.outcome import Outcome, deferred, returned
from spoold.core.reply import Reply
from spoold.failpoint import failpoint
from spoold.smtp.parser import ReplyError, ReplyParser
from spoold.smtp.relay import Timeouts
from spoold.smtp.transaction import BODY, DONE, DOT, WAIT, At, Envelope, Exchange, Transaction, refusal

__all__ = ["BodyError", "Envelope", "Session", "Transaction"]

#: What an idle socket takes at once.
_AT_ONCE = 16 * 1024
#: Up to this size one copy costs less than one more write.
_COPY = 64 * 1024


class BodyError(Exception):
    """The message could not be read to its end as it was taken; the text says why. Nothing was sent."""


class Session(asyncio.Protocol):
    """One connection. `extensions` are the EHLO keywords, lower case, with their values; `on_end` is called once, when
    the connection is of no more use.
    """

    def __init__(
        self, transport: asyncio.Transport, extensions: dict[str, str], remote_mta: str, timeouts: Timeouts
    ) -> None:
        self._transport = transport
        self.extensions = extensions
        self._timeouts = timeouts
        self._loop = asyncio.get_running_loop()
        self._parser = ReplyParser()
        self._flight: deque[Exchange] = deque()
        self._queue: deque[Exchange] = deque()
        self._transactions = 0
        self._deadline = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._end: str | None = None
        self._paused = False
        self._drained: asyncio.Future[None] | None = None
        self._limits: tuple[int, int] | None = None
        self._feeder: asyncio.Task[None] | None = None
        self._quit: asyncio.Future[None] | None = None
        self._closed = self._loop.create_future()
        self._pipelining = "pipelining" in extensions
        self._tls = transport.get_extra_info("sslcontext") is not None
        self.remote_mta = remote_mta
        self.on_end: Callable[[], None] = lambda: None
        transport.set_protocol(self)

    # --- for the owner ---------------------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """Whether another transaction may begin."""
        return self._end is None and not self._transport.is_closing()

    def transport_info(self, name: str) -> object:
        """What the transport knows of the connection, such as its `ssl_object`: asyncio's extra information."""
        return self._transport.get_extra_info(name)

    @property
    def depth(self) -> int:
        """How many transactions may be under way: the one in its data, and the next in line behind it."""
        return 2 if self._pipelining else 1

    def begin(
        self,
        envelope: Envelope,
        body: bytes | AsyncIterator[bytes],
        done: Callable[[Transaction], None],
        may_go: Callable[[], bool] = lambda: True,
    ) -> None:
        """Send one message, after those begun before it; `done` is told what came of it.

        `body` is its wire form, dot-stuffed, ending in CRLF, without the final dot. A BodyError out of it ends the
        connection before the dot: temporary for the recipients. `may_go` is asked when MAIL and when the body would leave; False
        returns the recipients untried.
        """
        if (refused := refusal(envelope, self.extensions)) is not None:
            done(Transaction([refused] * len(envelope.recipients)))
        elif self._end is not None:
            done(Transaction([returned(self._end)] * len(envelope.recipients)))
        else:
            self._queue.append(Exchange(envelope, self.extensions, self._pipelining, body, done, may_go))
            try:
                last = self._flight[-1] if self._flight else None
                if last is None or (self._pipelining and last.next_may_open and self._limits is None):
                    self._transport.write(self._open_next())
            except Exception as error:  # noqa: BLE001 - it is in line: its result comes by `done`, as always
                self._break(f"internal error: {type(error).__name__}: {error}", error)

    async def transact(self, envelope: Envelope, body: bytes | AsyncIterator[bytes]) -> Transaction:
        """`begin`, and wait for what came of it."""
        found: asyncio.Future[Transaction] = self._loop.create_future()
        self.begin(envelope, body, found.set_result)
        return await found

    async def close(self) -> None:
        """Say QUIT if the session is in step, and close; takes at most some seconds."""
        if self.usable and not self._flight and not self._queue:
            self._quit = self._loop.create_future()
            self._transport.write(b"QUIT\r\n")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(5.0, self._timeouts.command)):
                    await self._quit
        self._fail("closed")
        if self._feeder is not None:
            await asyncio.wait((self._feeder,), timeout=5)
        if not self._transport.is_closing():
            self._transport.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                await asyncio.shield(self._closed)
        self._abort()

    # --- the protocol ----------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        try:
            replies = self._parser.feed(data)
        except ReplyError as error:
            self._break(f"the relay answered with garbage: {error}")
            return
        for reply in replies:
            if self._end is not None:
                return
            try:
                self._reply(reply)
            except Exception as error:  # noqa: BLE001 - whatever it is, the dot decides what became of the message
                self._break(f"internal error: {type(error).__name__}: {error}", error)

    def eof_received(self) -> bool:
        self._break("the relay closed the connection")
        return False

    def connection_lost(self, error: Exception | None) -> None:
        # First of all: the transport is of no more use, not even to be aborted.
        if not self._closed.done():
            self._closed.set_result(None)
        self._break(f"the connection broke: {error}" if error else "the relay closed the connection")

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._wake_feeder()

    def _wake_feeder(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # --- transactions --------------------------------------------------------------------------------------------

    def _reply(self, reply: Reply) -> None:
        if not self._flight:
            if self._quit is not None and not self._quit.done():
                self._quit.set_result(None)
            else:
                self._fail(f"the relay ended the session: {reply}")
            return
        exchange = self._flight[0]
        turn = exchange.take(reply)
        if turn is DONE:
            self._finish(exchange)
            return
        if turn is WAIT:
            self._wait(self._timeouts.command)
        elif turn is BODY:
            if not exchange.may_go():
                self._withdraw(exchange, returned("withdrawn before it was sent"))
            elif isinstance(exchange.body, bytes):
                failpoint("half-body")
                self._end_body(exchange, exchange.body)
            else:
                self._wait(math.inf)
                self._feeder = self._loop.create_task(self._feed(exchange, exchange.body))
        else:
            self._wait(self._timeouts.command)
            self._transport.write(turn + self._open_next() if exchange.at == At.RSET else turn)

    def _finish(self, exchange: Exchange) -> None:
        self._flight.popleft()
        if self._limits is not None:
            low, high = self._limits
            self._limits = None
            self._transport.set_write_buffer_limits(low=low, high=high)
        self._wait(self._timeouts.command if self._flight else math.inf)
        self._wake_feeder()
        exchange.done(exchange.ended())
        if exchange.close:
            self._break("the session was ended")
        elif not self._flight and self._queue:
            self._transport.write(self._open_next())

    def _open_next(self) -> bytes:
        """The opening of the next in line, which is under way from now on; nothing where nobody waits."""
        if self._flight and not self._pipelining:
            return b""
        while self._queue and not self._queue[0].may_go():
            exchange = self._queue.popleft()
            exchange.done(exchange.unsent(returned("withdrawn before it was sent")))
        if not self._queue:
            return b""
        exchange = self._queue.popleft()
        try:
            opening = exchange.opening()
        except Exception as error:  # noqa: BLE001 - it never leaves, and the one that is under way does not pay for it
            exchange.done(exchange.failed(error))
            return b""
        self._transactions += 1
        exchange.number = self._transactions
        if not self._flight:
            self._wait(self._timeouts.command)
        self._flight.append(exchange)
        return opening

    def _end_body(self, exchange: Exchange, last: bytes) -> None:
        """Write the last of the body, the dot, and the next group behind it."""
        failpoint("before-dot")
        exchange.body_written()
        behind = self._open_next()
        transport = self._transport
        if len(last) <= _COPY:
            transport.write(b"%b.\r\n%b" % (last, behind))
        else:
            transport.write(last)
            transport.write(DOT + behind)
        left = transport.get_write_buffer_size()
        # uvloop writes at the end of its round: little of which nothing has gone yet is about to go at once.
        if left > len(behind) and not (left == len(last) + len(DOT) + len(behind) and left <= _AT_ONCE):
            # From here on `pause_writing` means that some of the dot is still in this process.
            low, high = transport.get_write_buffer_limits()
            self._limits = low, high
            # (The TLS transports pause at the high mark, the others above it.)
            transport.set_write_buffer_limits(low=len(behind), high=len(behind) + self._tls)
        failpoint("after-dot")
        self._wait(self._timeouts.final)

    async def _feed(self, exchange: Exchange, body: AsyncIterator[bytes]) -> None:
        """Stream a body, one piece behind, so that an error in it comes before its end is written."""
        try:
            last = b""
            async with contextlib.aclosing(cast("AsyncGenerator[bytes, None]", body)) as chunks:
                async for chunk in chunks:
                    if last:
                        await self._write(exchange, last)
                    if exchange.at != At.BODY:
                        return
                    last = chunk
            if exchange.at == At.BODY:
                self._end_body(exchange, last)
        except BodyError as error:
            if exchange.at == At.BODY:
                self._withdraw(exchange, deferred("4.3.0", str(error)))
        except Exception as error:  # noqa: BLE001 - as in data_received
            self._break(f"internal error: {type(error).__name__}: {error}", error)

    async def _write(self, exchange: Exchange, data: bytes) -> None:
        """Write some of a body and wait for room in the buffers, or for an early end: a relay that has answered may well
        read no further."""
        if exchange.at != At.BODY:
            return
        self._transport.write(data)
        failpoint("half-body")
        if self._paused:
            self._wait(self._timeouts.data)
            self._drained = self._loop.create_future()
            await self._drained
            if exchange.at == At.BODY:
                self._wait(math.inf)

    def _withdraw(self, exchange: Exchange, outcome: Outcome) -> None:
        """Leave a transaction between DATA and the dot, which only the end of the connection can do."""
        self._flight.remove(exchange)
        exchange.done(exchange.unsent(outcome))
        self._break(outcome.diagnostic)

    # --- the end ---------------------------------------------------------------------------------------------------

    def _fail(self, reason: str) -> None:
        """No transaction begins any more."""
        if self._end is None:
            self._end = reason
            if self._timer is not None:
                self._timer.cancel()
            self.on_end()
        if self._quit is not None and not self._quit.done():
            self._quit.set_result(None)

    def _break(self, reason: str, bug: Exception | None = None) -> None:
        """The connection is of no more use; whatever was under way has its result now."""
        dot_left = not self._paused
        flight, queue = list(self._flight), list(self._queue)
        self._flight.clear()
        self._queue.clear()
        self._fail(reason)
        self._abort()
        for exchange in flight:
            transaction = exchange.broken(reason, dot_left=exchange.dot_written and dot_left)
            transaction.bug, bug = bug, None
            exchange.done(transaction)
        for exchange in queue:
            exchange.done(exchange.unsent(returned(reason)))
        self._wake_feeder()

    def _abort(self) -> None:
        """End the connection at once. asyncio's TLS transport raises AttributeError where it has lost its connection, and
        where it was closed twice.
        """
        if not self._closed.done():
            self._transport.abort()

    def _wait(self, seconds: float) -> None:
        """The next reply, or room to write, must come within so many seconds."""
        if seconds == math.inf:
            self._deadline = math.inf
            return
        deadline = self._deadline = self._loop.time() + seconds
        if self._timer is not None:
            if self._timer.when() <= deadline:
                return  # it looks again when it fires
            self._timer.cancel()
        self._timer = self._loop.call_at(deadline, self._look_at_deadline)

    def _look_at_deadline(self) -> None:
        self._timer = None
        if self._deadline == math.inf or self._end is not None:
            return
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._look_at_deadline)
        elif self._flight:
            self._break(f"the relay did not answer in time (to {self._flight[0].step.value})")
