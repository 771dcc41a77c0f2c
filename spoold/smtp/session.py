"""The mail transactions of one connection (RFC 5321 §3.3), pipelined where the server says so (RFC 2920).

A session is the asyncio protocol that takes over the transport once aiosmtplib has connected, encrypted and logged in.
It matches every reply to its command, streams the data with back-pressure, and knows at any moment whether the last
byte of the final dot has left this process: only then can the relay have taken the message, and only then may a lost
connection mean
*uncertain*. Nothing that a server does raises out of `transact`; a session that was not answered cleanly says so by
`usable` and is closed, never used again.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from spoold.core.outcome import (
    Command,
    Fault,
    FaultKind,
    Outcome,
    Reply,
    Result,
    Verdict,
    deferred,
    failed,
    lost,
    read_reply,
    returned,
    unknown,
)
from spoold.failpoint import failpoint
from spoold.smtp.parser import ReplyError, ReplyParser

_DOT = b".\r\n"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds to wait, by default the least that RFC 5321 §4.5.3.2 wants from a client (but for `connect`)."""

    connect: float = 30.0
    command: float = 300.0
    data: float = 180.0
    final: float = 600.0


@dataclass(frozen=True, slots=True)
class Envelope:
    """Who a message is from and for. `size` is the message's size on the wire in bytes (RFC 1870)."""

    sender: str
    recipients: Sequence[str]
    size: int
    eight_bit: bool
    smtputf8: bool


@dataclass(slots=True)
class Transaction:
    """What came of one transaction: an outcome for each recipient, in order, and what it says of the relay."""

    outcomes: list[Outcome]
    fault: Fault | None = None
    dropped: str | None = None
    """Why the connection broke or fell out of step in the middle, None if it did not."""
    limit: int | None = None
    """The relay takes no more than this many recipients in a transaction."""
    bug: Exception | None = None
    """An error that nobody foresaw; the recipients were treated as if the connection had broken."""


class BodyError(Exception):
    """The message could not be read to its end as it was taken; the text says why. Nothing was sent."""


class _Broken(Exception):  # noqa: N818 - internal: it ends a transaction, it is never seen outside
    pass


@dataclass(slots=True)
class _State:
    """How far a transaction has come."""

    outcomes: list[Outcome | None]
    step: Command = Command.MAIL
    dot_written: bool = False
    accepted: list[int] = field(default_factory=list)
    fault: Fault | None = None
    limit: int | None = None
    close: bool = False
    answered: bool = False


class Session(asyncio.Protocol):
    """One connection, between transactions or in one. `extensions` are the EHLO keywords, lower case, with their
    values.
    """

    def __init__(
        self, transport: asyncio.Transport, extensions: dict[str, str], remote_mta: str, timeouts: Timeouts
    ) -> None:
        self._transport = transport
        self._extensions = extensions
        self._timeouts = timeouts
        self._parser = ReplyParser()
        self._waiting: deque[asyncio.Future[Reply]] = deque()
        self._end: str | None = None
        self._paused = False
        self._drained: asyncio.Future[None] | None = None
        self._transactions = 0
        self._closed = asyncio.get_running_loop().create_future()
        self.remote_mta = remote_mta
        self._pipelining = "pipelining" in extensions
        transport.set_protocol(self)

    # --- the protocol ----------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        try:
            replies = self._parser.feed(data)
        except ReplyError as error:
            self._abort(f"the relay answered with garbage: {error}")
            return
        for reply in replies:
            if self._waiting:
                future = self._waiting.popleft()
                if not future.done():
                    future.set_result(reply)
            else:
                self._fail(f"the relay ended the session: {reply}")

    def eof_received(self) -> bool:
        self._fail("the relay closed the connection")
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(f"the connection broke: {error}" if error else "the relay closed the connection")
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if not self._closed.done():
            self._closed.set_result(None)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _fail(self, reason: str) -> None:
        if self._end is None:
            self._end = reason
        for future in self._waiting:
            if not future.done():
                future.set_exception(_Broken(self._end))
                future.exception()
        self._waiting.clear()

    # --- for the owner ---------------------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """Whether another transaction may begin."""
        return self._end is None and not self._waiting and not self._transport.is_closing()

    async def close(self) -> None:
        """Say QUIT if the session is in step, and close; takes at most five seconds."""
        if self.usable:
            with contextlib.suppress(_Broken, TimeoutError):
                async with asyncio.timeout(5):
                    await self._command(b"QUIT\r\n")
        self._fail("closed")
        self._transport.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                await asyncio.shield(self._closed)
        if not self._closed.done():
            self._transport.abort()

    async def transact(self, envelope: Envelope, body: bytes | AsyncIterator[bytes]) -> Transaction:
        """Send one message. `body` is its wire form, dot-stuffed, ending in CRLF, without the final dot.

        A BodyError out of `body` ends the connection before the dot: temporary for the recipients.
        """
        refusal = self._refuse(envelope)
        if refusal is not None:
            return Transaction([refusal] * len(envelope.recipients))
        self._transactions += 1
        state = _State([None] * len(envelope.recipients))
        try:
            await self._run(envelope, body, state)
        except _Broken as error:
            return self._broken(state, str(error))
        except TimeoutError:
            return self._broken(state, f"the relay did not answer in time (to {state.step.value})")
        except BodyError as error:
            self._abort(str(error))
            return Transaction([outcome or deferred("4.3.0", str(error)) for outcome in state.outcomes])
        except Exception as error:  # noqa: BLE001 - whatever it is, the dot decides what became of the message
            transaction = self._broken(state, f"internal error: {type(error).__name__}: {error}")
            transaction.bug = error
            return transaction
        if state.close:
            self._abort("the session was ended")
        missing = returned("the relay ended the transaction")
        return Transaction([outcome or missing for outcome in state.outcomes], state.fault, None, state.limit)

    def _broken(self, state: _State, reason: str) -> Transaction:
        dot_left = state.dot_written and not self._paused
        stale = self._transactions > 1 and state.step is Command.MAIL and not state.answered
        self._abort(reason)
        if dot_left:
            rest = unknown(reason)
        elif state.fault is not None:
            rest = returned(str(state.fault))
        elif stale:
            # The relay had closed a connection that was idle; nobody has looked at this message yet.
            rest = returned(reason)
        else:
            rest = lost(state.step, reason)
        dropped = None if state.fault is not None or stale else reason
        return Transaction([outcome or rest for outcome in state.outcomes], state.fault, dropped, state.limit)

    def _abort(self, reason: str) -> None:
        self._fail(reason)
        self._transport.abort()

    def _refuse(self, envelope: Envelope) -> Outcome | None:
        """What the relay's extensions rule out, without asking it."""
        if envelope.smtputf8 and "smtputf8" not in self._extensions:
            return failed("5.6.7", "the address needs SMTPUTF8, which the relay does not offer")
        if envelope.eight_bit and "8bitmime" not in self._extensions:
            return failed(
                "5.6.3",
                "the message has 8-bit content and the relay does not offer 8BITMIME; encode it as quoted-printable",
            )
        limit = self._extensions.get("size", "")
        if limit.isdigit() and 0 < int(limit) < envelope.size:
            return failed("5.3.4", f"the message has {envelope.size} bytes, the relay takes {limit}")
        return None

    # --- one transaction -------------------------------------------------------------------------------------------

    async def _run(self, envelope: Envelope, body: bytes | AsyncIterator[bytes], state: _State) -> None:
        commands = [
            self._mail(envelope),
            *(f"RCPT TO:<{to}>\r\n".encode() for to in envelope.recipients),
            b"DATA\r\n",
        ]
        if self._pipelining:
            replies = self._send(*commands)
            mail = await self._answer(replies[0], self._timeouts.command)
            failpoint("after-mail")
        else:
            replies = []
            mail = await self._command(commands[0])
            failpoint("after-mail")
        state.answered = True
        if not mail.positive:
            verdict = read_reply(Command.MAIL, mail, earlier=self._transactions - 1)
            self._settle(state, range(len(envelope.recipients)), verdict)
            if state.close:
                # The relay may well close now: the replies to the rest of the group are not worth waiting for.
                return
        else:
            state.step = Command.RCPT
        for index in range(len(envelope.recipients)):
            if self._pipelining:
                reply = await self._answer(replies[index + 1], self._timeouts.command)
            elif mail.positive and not state.close:
                reply = await self._command(commands[index + 1])
            else:
                break
            if mail.positive:
                self._recipient(state, index, reply)
        if self._pipelining:
            if mail.positive:
                state.step = Command.DATA
            go = await self._answer(replies[-1], self._timeouts.command)
        elif state.accepted and not state.close:
            state.step = Command.DATA
            go = await self._command(commands[-1])
        else:
            await self._reset(state)
            return
        if go.code == 354 and not state.accepted:
            # RFC 2920 §3.1: every recipient was refused and the server wants data all the same.
            await self._command(_DOT)
            await self._reset(state)
        elif go.code != 354:
            if state.accepted:
                verdict = read_reply(Command.DATA, go) if not go.positive else _not_understood(go)
                self._settle(state, state.accepted, verdict)
            await self._reset(state)
        else:
            failpoint("after-354")
            await self._data(body, state)

    async def _data(self, body: bytes | AsyncIterator[bytes], state: _State) -> None:
        final = self._expect()
        if isinstance(body, bytes):
            failpoint("half-body")
            last = body
        else:
            last = b""
            async for chunk in body:
                if final.done():
                    break
                if last:
                    self._write(last)
                    failpoint("half-body")
                    await self._drain(final, self._timeouts.data)
                last = chunk
        if final.done():
            # An answer before the end of the data, or a connection that broke: the message cannot have been taken.
            reply = await final
            state.close = True
            verdict = read_reply(Command.DATA, reply) if not reply.positive else _not_understood(reply)
            self._settle(state, state.accepted, verdict)
            return
        failpoint("before-dot")
        state.step = Command.DOT
        self._check()
        state.dot_written = True
        self._write(last + _DOT)
        # From here on `pause_writing` means that some of this, the dot at the end of it, is still in this process.
        limits = self._transport.get_write_buffer_limits()
        if self._transport.get_write_buffer_size():
            self._transport.set_write_buffer_limits(high=0)
        failpoint("after-dot")
        reply = await self._answer(final, self._timeouts.final)
        failpoint("after-reply")
        self._transport.set_write_buffer_limits(low=limits[0], high=limits[1])
        if reply.code < 200 or 300 <= reply.code < 400:
            state.close = True
            outcome = unknown(f"the relay's answer means nothing here: {reply}")
            self._settle(state, state.accepted, Verdict(outcome))
            return
        self._settle(state, state.accepted, read_reply(Command.DOT, reply))

    def _recipient(self, state: _State, index: int, reply: Reply) -> None:
        verdict = read_reply(Command.RCPT, reply, accepted=len(state.accepted))
        if verdict.outcome.result is Result.SENT:
            state.accepted.append(index)
            return
        self._settle(state, [index], verdict)
        if verdict.too_many and state.limit is None:
            state.limit = len(state.accepted)

    def _settle(self, state: _State, indexes: Sequence[int], verdict: Verdict) -> None:
        for index in indexes:
            state.outcomes[index] = verdict.outcome
        state.fault = state.fault or verdict.fault
        state.close = state.close or verdict.close

    async def _reset(self, state: _State) -> None:
        """Leave the transaction, so that the next MAIL is in sequence (RFC 5321 §4.1.1.5)."""
        if state.close:
            return
        try:
            reply = await self._command(b"RSET\r\n")
        except (_Broken, TimeoutError):
            # Every recipient has its answer already; only the connection is of no more use.
            state.close = True
            return
        state.close = not reply.positive

    def _mail(self, envelope: Envelope) -> bytes:
        parameters = ""
        if "size" in self._extensions:
            parameters += f" SIZE={envelope.size}"
        if envelope.eight_bit:
            parameters += " BODY=8BITMIME"
        if envelope.smtputf8:
            parameters += " SMTPUTF8"
        return f"MAIL FROM:<{envelope.sender}>{parameters}\r\n".encode()

    # --- bytes -------------------------------------------------------------------------------------------------------

    def _send(self, *commands: bytes) -> "list[asyncio.Future[Reply]]":
        self._check()
        futures = [self._expect() for _ in commands]
        self._write(b"".join(commands))
        return futures

    async def _command(self, line: bytes) -> Reply:
        return await self._answer(self._send(line)[0], self._timeouts.command)

    def _expect(self) -> "asyncio.Future[Reply]":
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        if self._end is not None:
            future.set_exception(_Broken(self._end))
            future.exception()
        else:
            self._waiting.append(future)
        return future

    async def _answer(self, future: "asyncio.Future[Reply]", timeout: float) -> Reply:
        if future.done():
            return future.result()
        async with asyncio.timeout(timeout):
            return await future

    def _write(self, data: bytes) -> None:
        self._transport.write(data)

    def _check(self) -> None:
        if self._end is not None:
            raise _Broken(self._end)

    async def _drain(self, answer: "asyncio.Future[Reply]", timeout: float) -> None:
        """Wait for room in the buffers, or for an early `answer`: a relay that has one may well read no further."""
        if self._paused and self._end is None and not answer.done():
            self._drained = asyncio.get_running_loop().create_future()
            done, _ = await asyncio.wait((self._drained, answer), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                raise TimeoutError
        if not answer.done():
            self._check()


def _not_understood(reply: Reply) -> Verdict:
    fault = Fault(FaultKind.UNSTABLE, f"the relay's answer means nothing here: {reply}")
    return Verdict(lost(Command.DATA, fault.text), fault, close=True)
